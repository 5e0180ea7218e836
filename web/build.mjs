// Bundles entry.js into nas/report/static/charts.js and writes, beside it, the licence of every package that went in.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "nas", "report", "static");

const result = await build({
  absWorkingDir: here,
  entryPoints: ["entry.js"],
  outfile: join(target, "charts.js"),
  bundle: true,
  minify: true,
  format: "iife",
  globalName: "Charts",
  target: "es2022",
  charset: "utf8",
  legalComments: "none", // whole licence texts are written below
  metafile: true,
});

const packages = new Map();
const [output] = Object.values(result.metafile.outputs);
for (const [path, { bytesInOutput }] of Object.entries(output.inputs)) {
  if (!bytesInOutput) continue;
  const found = path.match(/^(?:.*\/)?node_modules\/((?:@[^/]+\/)?[^/]+)\//);
  if (found) packages.set(found[1], join(here, path.slice(0, found.index + found[0].length)));
}
const notices = [...packages].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, folder]) => {
  const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
  const licence = readdirSync(folder).find((file) => /^licen[cs]e/i.test(file));
  if (!licence) throw new Error(`${name} has no licence file; add its text by hand or leave the package out`);
  return `${name} ${about.version} (${about.license})\n\n${readFileSync(join(folder, licence), "utf8").trim()}\n`;
});
const head = "charts.js is a bundle of these packages, made by `make charts` from web/.\n";
writeFileSync(join(target, "charts.licenses.txt"), [head, ...notices].join(`\n${"-".repeat(80)}\n\n`));
console.log(`charts.js: ${Math.round(readFileSync(join(target, "charts.js")).length / 1024)} KB, ${packages.size} packages`);
