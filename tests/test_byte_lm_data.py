"""Text for language models: splits that share nothing, windows that are the text to the byte, errors of one line."""

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from nas.search_spaces.byte_lm import corpus, data
from nas.search_spaces.byte_lm.corpus import from_documents, read
from nas.search_spaces.byte_lm.space import SIZES
from nas.space import load

SPLITS = ("train", "validation", "test")


def documents(count: int = 60, lines: int = 40, seed: int = 0) -> list[bytes]:
    """Texts of random words, among them bytes that are no UTF-8."""
    rng = np.random.default_rng(seed)
    words = [bytes(rng.integers(97, 123, size=rng.integers(2, 9)).astype(np.uint8)) for _ in range(2_000)] + [
        b"\xe9\xff"
    ]
    return [
        b"".join(b" ".join(words[i] for i in rng.integers(len(words), size=8)) + b"\n" for _ in range(lines))
        for _ in range(count)
    ]


def folder(path: Path, texts: list[bytes], name: str = "{}.txt") -> Path:
    for i, text in enumerate(texts):
        file = path / name.format(i)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text)
    return path


def part(text: corpus.Corpus, split: str) -> bytes:
    return b"".join(text.units[begin:end].tobytes() for begin, end in text.spans[split])


def write_tokens(path: Path, count: int, vocab: int = 1_000, seed: int = 0) -> np.ndarray:
    tokens = np.random.default_rng(seed).integers(vocab, size=count).astype("<u2")
    tokens.tofile(path)
    return tokens


def written(count: int = 200, seed: int = 0) -> list[np.ndarray]:
    """Documents of tokens, each with the end-of-text token after it, and a last one that has none."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(1_000, size=rng.integers(40, 400)).astype("<u2") for _ in range(count)]
    return [np.append(text, corpus.END_TOKEN).astype("<u2") for text in texts[:-1]] + texts[-1:]


def owners(text: corpus.Corpus) -> np.ndarray:
    """For each unit of the file in which split it lies, -1 for none; each lies in one at most."""
    owner = np.full(len(text.units), -1)
    for index, split in enumerate(SPLITS):
        for begin, end in text.spans[split].tolist():
            assert (owner[begin:end] == -1).all()
            owner[begin:end] = index
    return owner


def windows_of(text: corpus.Corpus, split: str, length: int, count: int = 2_000) -> set[bytes]:
    inputs, targets = data.windows(text, split, count=count, length=length)
    return {np.append(row, last).tobytes() for row, last in zip(inputs, targets[:, -1], strict=True)}


# ---- splits --------------------------------------------------------------------------------------------------------


def test_each_document_is_whole_in_exactly_one_split(tmp_path: Path) -> None:
    texts = documents()
    text = read(folder(tmp_path, texts))
    parts = {split: part(text, split) for split in SPLITS}
    for document in texts:
        assert [document in part for part in parts.values()].count(True) == 1
    assert sum(map(len, parts.values())) == sum(map(len, texts)) == len(text.units)
    for split in ("validation", "test"):
        assert 0.05 < len(parts[split]) / len(text.units) <= 0.1


def test_contents_decide_and_neither_names_nor_order(tmp_path: Path) -> None:
    texts = documents(20)
    one = read(folder(tmp_path / "one", texts))
    other = read(folder(tmp_path / "other", texts[::-1], "deep/{}/text"))
    assert one.digest == other.digest
    np.testing.assert_array_equal(one.units, other.units)
    texts[3] = texts[3].replace(b"a", b"b", 1)
    assert from_documents(texts).digest != one.digest


def edited(text: bytes, seed: int) -> bytes:
    """A copy in which every fifth line has another word and two lines are gone."""
    lines = text.splitlines(keepends=True)
    for i in range(seed, len(lines), 5):
        lines[i] = b"edited " + lines[i]
    return b"".join(lines[:7] + lines[9:])


def test_near_duplicates_lie_on_one_side() -> None:
    originals = documents(100)
    copies = [edited(text, i % 5) for i, text in enumerate(originals)]
    text = from_documents(originals + copies)
    assert (text.alike, text.grouped) == (100, 200)
    parts = [part(text, split) for split in SPLITS]
    for original, copy in zip(originals, copies, strict=True):
        assert [original in part for part in parts] == [copy in part for part in parts]


def test_a_crowd_of_near_duplicates_is_one_group() -> None:
    original = documents(1)[0]
    crowd = [original + b"%d\n" % i for i in range(2 * corpus.CROWD)]
    views = [np.frombuffer(text, np.uint8) for text in [*documents(5, seed=1), *crowd]]
    np.testing.assert_array_equal(corpus.groups(views), [0, 1, 2, 3, 4] + [5] * len(crowd))


def test_near_duplicates_are_found_though_others_quote_them() -> None:
    """Each part of what the first and the last have in common is in one of those between them, too."""
    first, *others = documents(11)
    part = len(first) // 10 + 1
    between = [first[i * part : (i + 1) * part] + other for i, other in enumerate(others)]
    views = [np.frombuffer(text, np.uint8) for text in (first, *between, first + b"!")]
    np.testing.assert_array_equal(corpus.groups(views), [*range(11), 0])


def test_a_licence_makes_no_near_duplicates() -> None:
    licence, *texts = documents(10)
    views = [np.frombuffer(licence[:400] + text, np.uint8) for text in texts]
    np.testing.assert_array_equal(corpus.groups(views), np.arange(9))


def test_exact_copies_are_left_out() -> None:
    texts = documents(20)
    text = from_documents(texts + texts[:5] + [b""])
    assert (text.documents, text.copies) == (20, 5)
    assert text.digest == from_documents(texts).digest


def test_limit_takes_whole_documents_whatever_their_order() -> None:
    texts = documents(40)
    limit = sum(map(len, texts)) // 2
    text = from_documents(texts, limit=limit)
    assert 0.9 * limit < len(text.units) <= limit
    assert text.digest == from_documents(texts[::-1], limit=limit).digest
    assert sum(any(t in part(text, split) for split in SPLITS) for t in texts) == text.documents


def test_hidden_and_binary_files_are_passed_over(tmp_path: Path) -> None:
    texts = documents(10)
    folder(tmp_path, texts)
    folder(tmp_path / ".git", documents(3, seed=1))
    (tmp_path / "picture").write_bytes(b"\x89\0" * 500)
    assert read(tmp_path).digest == from_documents(texts).digest


def test_splits_of_a_lone_file_are_one_stretch_each_and_all_of_it(tmp_path: Path) -> None:
    whole = b"".join(documents(300))
    (tmp_path / "a.txt").write_bytes(whole)
    text = read(tmp_path / "a.txt")
    assert b"".join(part(text, split) for split in SPLITS) == whole and text.documents == 0
    assert [len(text.spans[split]) for split in SPLITS] == [1, 1, 1]
    assert text.size("validation") == text.size("test") == len(whole) // 10
    assert isinstance(text.units, np.memmap) and not text.units.flags.writeable
    assert read(tmp_path).digest == text.digest


def test_no_unit_of_a_lone_file_is_in_windows_of_two_splits(tmp_path: Path) -> None:
    """Numbers, so that every window tells where it was cut."""
    (tmp_path / "numbers.txt").write_bytes(b"".join(b"%07d " % i for i in range(20_000)))
    text = read(tmp_path / "numbers.txt")
    seen = []
    for split in SPLITS:
        inputs, _ = data.windows(text, split, count=2_000, length=40)
        seen.append({number for row in inputs for number in row.astype(np.uint8).tobytes().split(b" ")[1:-1]})
    assert min(map(len, seen)) > 1_000
    assert max(seen[0]) < min(seen[1]) <= max(seen[1]) < min(seen[2])


@pytest.mark.parametrize("where", [0, 1_000, 150_000, 300_000])
def test_single_mark_in_a_lone_file_leaves_no_split_empty(tmp_path: Path, where: int) -> None:
    text = np.random.default_rng(1).integers(32, 127, 300_000, np.uint8).tobytes()
    (tmp_path / "book.txt").write_bytes(text[:where] + corpus.END_OF_TEXT + text[where:])
    found = read(tmp_path / "book.txt")
    assert all(found.size(name) > 0.05 * len(text) for name in corpus.SHARES)


def test_order_of_a_lone_file_is_part_of_its_digest(tmp_path: Path) -> None:
    texts, digests = documents(30), []
    for order in (texts, texts[::-1]):
        (tmp_path / "a.txt").write_bytes(b"".join(order))
        digests.append(read(tmp_path / "a.txt").digest)
    assert digests[0] != digests[1]


def test_lone_file_is_cut_where_its_texts_end(tmp_path: Path) -> None:
    texts = documents(60, lines=20)
    (tmp_path / "stories.txt").write_bytes(corpus.END_OF_TEXT.join(texts))
    one, other = read(tmp_path / "stories.txt"), from_documents(texts)
    assert one.digest == other.digest and [part(one, s) for s in SPLITS] == [part(other, s) for s in SPLITS]
    for split in SPLITS:  # a document may be shorter than a window
        for a, b in zip(*(data.windows(c, split, count=70, length=10) for c in (one, other)), strict=True):
            np.testing.assert_array_equal(a, b)


def test_dump_of_wikipedia_is_cut_at_its_pages(tmp_path: Path) -> None:
    pages = [b"<page>\n    <title>%d</title>\n%s  </page>\n  " % (i, text) for i, text in enumerate(documents(60))]
    (tmp_path / "enwik").write_bytes(b"<mediawiki>\n  " + b"".join(pages) + b"<page> is no title\n")
    text = read(tmp_path / "enwik")
    parts = [part(text, split) for split in SPLITS]
    assert text.documents == 61 and sum(map(len, parts)) == len(text.units)
    for page in pages:
        assert [page in part for part in parts].count(True) == 1
    assert min(map(len, parts)) > 0


def test_near_duplicates_of_a_lone_file_lie_on_one_side(tmp_path: Path) -> None:
    originals = documents(100)
    copies = [edited(text, i % 5) for i, text in enumerate(originals)]
    (tmp_path / "stories.txt").write_bytes(corpus.END_OF_TEXT.join(originals + copies))
    text = read(tmp_path / "stories.txt")
    assert (text.alike, text.grouped) == (100, 200)
    parts = [part(text, split) for split in SPLITS]
    for original, copy in zip(originals, copies, strict=True):
        assert [original in part for part in parts] == [copy in part for part in parts]


def test_library_is_real_text_that_gives_a_default() -> None:
    text = data.corpus()
    assert 0.9 * corpus.LIMIT < len(text.units) <= corpus.LIMIT
    assert b"import" in part(text, "validation") and len(text.digest) == 64
    assert not any("test" in file.parts or "site-packages" in file.parts for file in corpus.library())


# ---- tokens --------------------------------------------------------------------------------------------------------


def test_each_document_of_a_token_file_lies_in_one_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CHUNK", 1 << 10)  # so that documents lie across what is looked at a time
    texts = written()
    np.concatenate(texts).tofile(tmp_path / "train.bin")
    text = read(tmp_path / "train.bin")
    assert isinstance(text.units, np.memmap) and not text.units.flags.writeable
    owner, ends = owners(text), np.cumsum([len(one) for one in texts])
    assert text.documents == len(texts) and text.copies == 0
    assert all(len(set(own.tolist())) == 1 for own in np.split(owner, ends[:-1]))
    assert set(owner.tolist()) == {0, 1, 2}


def test_no_window_of_tokens_is_in_two_splits(tmp_path: Path) -> None:
    np.concatenate(written()).tofile(tmp_path / "train.bin")
    text = read(tmp_path / "train.bin")
    found = [windows_of(text, split, 20) for split in SPLITS]
    assert min(map(len, found)) >= data.FEWEST
    assert not found[0] & found[1] and not found[0] & found[2] and not found[1] & found[2]


def test_windows_of_tokens_are_runs_of_their_split(tmp_path: Path) -> None:
    """From one document into the next of the same split, since a document may be shorter than a window."""
    np.concatenate(written()).tofile(tmp_path / "train.bin")
    text = read(tmp_path / "train.bin")
    own = part(text, "train")
    inputs, targets = data.windows(text, "train", count=50, length=600)
    assert type(inputs) is np.ndarray and inputs.dtype == np.int32
    for row, last in zip(inputs, targets[:, -1], strict=True):
        assert np.append(row, last).astype("<u2").tobytes() in own


@pytest.mark.parametrize("vocab", [1_000, 65_536])
def test_token_file_without_known_ends_has_one_stretch_for_each_split(tmp_path: Path, vocab: int) -> None:
    tokens = write_tokens(tmp_path / "train.bin", 50_003, vocab)
    if vocab > corpus.GPT2:  # then it ends nothing
        tokens[::100] = corpus.END_TOKEN
        tokens.tofile(tmp_path / "train.bin")
    text = read(tmp_path / "train.bin", vocab=vocab)
    np.testing.assert_array_equal(text.units, tokens)
    assert text.documents == 0
    np.testing.assert_array_equal(np.diff(owners(text)).nonzero()[0] + 1, [40_003, 45_003])


def test_equal_documents_of_tokens_are_used_once(tmp_path: Path) -> None:
    texts = written()[:-1]
    np.concatenate(texts + texts).tofile(tmp_path / "a.bin")
    text = read(tmp_path / "a.bin")
    assert (text.documents, text.copies) == (len(texts), len(texts))
    assert 2 * text.used == text.whole


# ---- limits --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "stories.txt", "a.bin", "folder"])
def test_limit_is_honoured_whatever_the_text(tmp_path: Path, name: str) -> None:
    texts = documents(40)
    folder(tmp_path / "folder", texts)
    (tmp_path / "a.txt").write_bytes(b"".join(texts))
    (tmp_path / "stories.txt").write_bytes(corpus.END_OF_TEXT.join(texts))
    np.concatenate(written()).tofile(tmp_path / "a.bin")
    whole = read(tmp_path / name)
    half = read(tmp_path / name, limit=whole.whole // 2)
    assert whole.used >= 0.99 * whole.whole == 0.99 * half.whole
    assert 0.45 * whole.whole < half.used <= whole.whole // 2


def test_large_limit_takes_a_large_file_of_a_folder_and_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    folder(tmp_path, [rng.integers(32, 127, size=size, dtype=np.uint8).tobytes() for size in (2_000, 9 << 20)])
    few, more = read(tmp_path), read(tmp_path, limit=1 << 27)
    assert (few.used, more.used) == (2_000, 2_000 + (9 << 20))
    said = data.told(few, Path("texts"), corpus.LIMIT)
    assert said == "byte_lm: uses 2,000 of 9,439,184 bytes of texts (limit=9439184 takes all); 1 document, split whole"
    said = data.told(more, Path("texts"), 1 << 27)
    assert said == "byte_lm: uses 9,439,184 of 9,439,184 bytes of texts; 2 documents, split whole"


def test_what_is_used_of_tokens_is_told_in_tokens(tmp_path: Path) -> None:
    write_tokens(tmp_path / "a.bin", 5_000)
    line = data.told(read(tmp_path / "a.bin", limit=4_000), Path("a.bin"), 4_000)
    assert line.startswith("byte_lm: uses 4,000 of 5,000 tokens of a.bin (limit=5000 takes all); no end of a document")
    np.concatenate(2 * written(31)[:-1]).tofile(tmp_path / "b.bin")
    line = data.told(read(tmp_path / "b.bin"), Path("b.bin"), corpus.LIMIT)
    assert line.endswith("tokens of b.bin; 30 documents, split whole, 30 copies left out")


# ---- windows -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text() -> corpus.Corpus:
    return from_documents(documents(200))


@pytest.mark.parametrize("split", SPLITS)
def test_targets_are_the_inputs_one_further_and_both_are_the_text(text: corpus.Corpus, split: str) -> None:
    inputs, targets = data.windows(text, split, count=40, length=100)
    assert inputs.shape == targets.shape == (40, 100) and inputs.dtype == targets.dtype == np.int32
    np.testing.assert_array_equal(inputs[:, 1:], targets[:, :-1])
    own = part(text, split)
    for row, last in zip(inputs, targets[:, -1], strict=True):
        assert bytes([*row.tolist(), int(last)]) in own


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scored_windows_are_fixed_and_do_not_overlap(text: corpus.Corpus, split: str) -> None:
    one, again = (data.windows(text, split, count=60, length=100) for _ in range(2))
    np.testing.assert_array_equal(one.inputs, again.inputs)
    whole = text.units.tobytes()
    places = sorted(whole.index(row.astype(np.uint8).tobytes()) for row in one.inputs)
    assert (np.diff(places) >= 101).all()


def test_seed_draws_the_training_windows_and_fewer_are_the_beginning(text: corpus.Corpus) -> None:
    few, more = (data.windows(text, "train", count=count, length=50, seed=9).inputs for count in (20, 70))
    np.testing.assert_array_equal(more[:20], few)
    assert (data.windows(text, "train", count=20, length=50, seed=8).inputs != few).any()


def test_training_windows_reach_every_part_of_the_text() -> None:
    tiny = from_documents([bytes([i]) * 30 for i in range(1, 100)])
    inputs, _ = data.windows(tiny, "train", count=20_000, length=10)
    assert set(inputs.ravel().tolist()) == set(part(tiny, "train"))


def test_windows_that_training_text_has_are_not_scored() -> None:
    """A passage that all documents have, though they are no near-duplicates."""
    shared, *texts = documents(120)
    shared = shared[:600]
    text = from_documents([t[:1_000] + shared + t[1_000:] for t in texts])
    assert text.alike == 0
    for split in ("validation", "test"):
        own = part(text, split)
        assert own.count(shared) > 3
        starts = np.arange(0, text.size(split) - 300, 301)
        left = starts[corpus.fresh(text, split, starts, 301)]
        assert 0.5 < len(left) / len(starts) < 1
        windows = data.windows(text, split, count=len(left), length=300).inputs
        assert not any(shared[50:300] in row.astype(np.uint8).tobytes() for row in windows)


def test_one_byte_repeated_is_not_scored() -> None:
    text = from_documents([t + b" " * 3_000 for t in documents(100)])
    inputs, _ = data.windows(text, "validation", count=20, length=300)
    assert min(len(set(row.tolist())) for row in inputs) > 1


def test_default_splits_share_no_example() -> None:
    rows = [{row.tobytes() for row in data.split(split).inputs} for split in SPLITS]
    assert [len(found) for found in rows[1:]] == [1_024, 1_024]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]


# ---- errors --------------------------------------------------------------------------------------------------------


def refuse(message: str, path: Path, **options: int) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        read(path, **options)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    refuse("no file or folder", tmp_path / "none")
    refuse("no text file", tmp_path)
    for name, content, message in [
        ("empty.txt", b"", "is empty"),
        ("binary.txt", b"ab\0cd", "zero bytes"),
        ("odd.bin", b"abc", "3 bytes.*two for each"),
        ("empty.bin", b"", "0 bytes"),
    ]:
        (tmp_path / name).write_bytes(content)
        refuse(message, tmp_path / name)
    write_tokens(tmp_path / "large.bin", 100, vocab=500)
    refuse("token 4.*vocab=65", tmp_path / "large.bin", vocab=65)
    refuse("token files.*large.bin", tmp_path)


def test_too_little_text_says_how_much_there_is(tmp_path: Path) -> None:
    text = read(folder(tmp_path, documents(20)))
    for split in ("train", "validation", "test"):
        with pytest.raises(ValueError, match=rf"[\d,]+ are for {split}, with room for \d windows of \d+") as caught:
            data.windows(text, split, count=1, length=10**6 if split == "train" else 1_000)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="0 are for validation, with room for 0 windows of 5 .*Give 10,000 units"):
        data.check(from_documents([b"one text alone"]), 4)


def test_too_few_tokens_are_told_in_tokens(tmp_path: Path) -> None:
    write_tokens(tmp_path / "a.bin", 1_000)
    with pytest.raises(ValueError, match=r"of 1,000 tokens 100 are for validation, .* Give 10,000 tokens or more\.$"):
        data.check(read(tmp_path / "a.bin"), 4)
    np.concatenate(written(12)).tofile(tmp_path / "b.bin")
    with pytest.raises(ValueError, match=r"Give 10,000 tokens or more, in several documents\.$"):
        data.check(read(tmp_path / "b.bin"), 4)


def test_too_little_text_says_what_the_limit_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"".join(documents(20)))
    with pytest.raises(ValueError, match=r"of 100 units of text \([\d,]{6} with copies, .* Give 10,000 units"):
        data.check(read(tmp_path / "a.txt", limit=100), 4)


def test_text_that_repeats_says_so() -> None:
    (original,) = documents(1, lines=4_000)
    told = "near-duplicates, 3 of 3 documents, stay together. Give 10,000 units or more, .* that repeat less"
    with pytest.raises(ValueError, match=told):
        data.check(from_documents([edited(original, i) for i in range(3)]), 4)


def test_short_text_has_fewer_windows_to_be_scored_on(tmp_path: Path) -> None:
    text = read(folder(tmp_path, documents(60)))
    room = text.size("validation") // 21
    assert data.FEWEST < room < 1_000
    found = data.windows(text, "validation", count=1_000, length=20)
    assert len(found.inputs) == room // data.FEWEST * data.FEWEST


def test_every_size_has_windows_of_the_library() -> None:
    for size in SIZES:
        space = load(f"byte_lm?size={size}")
        for split in ("validation", "test"):
            count = len(space.task.split(split).inputs)
            assert 512 <= count <= data.COUNTS[split] and count % space.recipe.eval_batch == 0


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="no split 'valid'.*validation"):
        data.split("valid")


# ---- fetching ------------------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, dict[str, bytes], list[str]]]:
    """A server of files on this machine: its address, its files, what was asked of it."""
    files: dict[str, bytes] = {}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = files.get(self.path)
            self.send_response(200 if body is not None else 404)
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", files, asked
    server.shutdown()
    thread.join()
    server.server_close()


def packed(path: Path, name: str, text: bytes) -> bytes:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, text)
    return path.read_bytes()


def known_by(monkeypatch: pytest.MonkeyPatch, name: str, content: bytes) -> None:
    """Say that a public text is this file."""
    public = data.PUBLIC[name]._replace(sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(data.PUBLIC, name, public)


def test_fetched_text_is_checked_unpacked_and_kept(
    tmp_path: Path, served: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address, files, asked = served
    files["/text8.zip"] = packed(tmp_path / "z", "text8", b"anarchism originated as")
    known_by(monkeypatch, "text8", files["/text8.zip"])
    for _ in range(2):
        assert data.main(["text8", "--to", str(tmp_path / "kept"), "--url", f"{address}/text8.zip"]) == 0
        found = Path(capsys.readouterr().out.splitlines()[0])
        assert found.read_bytes() == b"anarchism originated as"
    assert asked == ["/text8.zip"]


def test_wrong_hash_is_refused_and_nothing_is_kept(
    tmp_path: Path, served: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address, files, _ = served
    files["/tiny.txt"] = b"Once upon a time"
    url = f"{address}/tiny.txt"
    assert data.main(["tinystories", "--to", str(tmp_path / "kept"), "--url", url]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and "SHA-256" in said.err
    assert list((tmp_path / "kept").iterdir()) == []
    known_by(monkeypatch, "tinystories", files["/tiny.txt"])
    assert data.fetch("tinystories", tmp_path / "kept", url=url).read_bytes() == files["/tiny.txt"]
    known_by(monkeypatch, "tinystories", b"another")
    with pytest.raises(ValueError, match="Remove it"):
        data.fetch("tinystories", tmp_path / "kept", url=url)


def test_fetch_that_cannot_be_says_so(tmp_path: Path, served: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    address, files, _ = served
    with pytest.raises(OSError, match="cannot be fetched: .*404"):
        data.fetch("text8", tmp_path, url=f"{address}/text8.zip")
    assert list(tmp_path.iterdir()) == []
    files["/enwik8.zip"] = packed(tmp_path / "z", "other", b"")
    known_by(monkeypatch, "enwik8", files["/enwik8.zip"])
    with pytest.raises(ValueError, match="holds no 'enwik8'"):
        data.fetch("enwik8", tmp_path, url=f"{address}/enwik8.zip")
    with pytest.raises(ValueError, match="knows no text 'c4'.*text8"):
        data.fetch("c4", tmp_path)
