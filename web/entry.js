// What the report page uses of Observable Plot and d3-hierarchy; the bundle binds it to the global name `Charts`.
export {
  areaY, axisX, axisY, barX, dot, gridX, gridY, line, link, plot, pointer, pointerX, pointerY, ruleX, ruleY, text, tip,
} from "@observablehq/plot";
export { stratify, tree } from "d3-hierarchy";
