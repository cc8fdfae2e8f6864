"""Images, arrays, text and user functions: what is read, in which order, how it is prepared and recorded."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hwsim.data.dataset import IGNORED, InputForm
from hwsim.data.images import ImageForm
from hwsim.data.open import open_data
from hwsim.data.tokenizer import load_tokenizer
from hwsim.errors import UserError
from tests.shared_data import shared

IMAGES = InputForm((torch.zeros(2, 3, 8, 8),), {"mean": (0.5,) * 3, "std": (0.25,) * 3, "crop_pct": 0.8})
TOKENS = InputForm((torch.zeros(2, 6, dtype=torch.long),), {"vocab_size": 600})


def pixels(seed, height=8, width=8):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def test_zip_with_labels_is_cropped_and_normalised_in_table_order(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.csv", "file,label\nb.png,7\na.png,3\n")
        for seed, name in enumerate(("a.png", "b.png")):
            archive.writestr(name, png(pixels(seed, 9, 9)))
    data = open_data(str(path), IMAGES)
    batch = next(iter(data.batches(2)))
    assert batch.labels.tolist() == [7, 3] and batch.valid == 2
    expected = (pixels(1, 9, 9)[:8, :8].transpose(2, 0, 1) / 255 - 0.5) / 0.25
    assert np.allclose(batch.inputs[0][0].numpy(), expected, atol=1e-6)
    assert data.record.count == 2 and data.record.labelled and len(data.record.sha256) == 64


def test_class_folders_give_sorted_labels_and_limits_keep_classes_balanced(tmp_path):
    for name in ("zebra", "ape"):
        (tmp_path / name).mkdir()
        for i in range(3):
            (tmp_path / name / f"{i}.png").write_bytes(png(pixels(i)))
    data = open_data(str(tmp_path), IMAGES, limit=4)
    assert [int(label) for _, label in data.samples()] == [0, 1, 0, 1]
    all_of_it = open_data(str(tmp_path), IMAGES)
    assert all_of_it.record.count == 6 and all_of_it.record.sha256 != data.record.sha256


def test_last_batch_is_filled_up_and_says_so(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(png(pixels(i)))
    batches = list(open_data(str(tmp_path), IMAGES).batches(2))
    assert [batch.valid for batch in batches] == [2, 1] and batches[0].labels is None
    assert torch.equal(batches[1].inputs[0][0], batches[1].inputs[0][1])


def test_preparation_resizes_like_timm():
    """Short side to size / crop_pct, then centre crop; compared with timm's own transform."""
    from hwsim.model.torchvision_shim import declare_missing_operators

    declare_missing_operators()
    from timm.data.transforms_factory import create_transform

    image = Image.fromarray(pixels(0, 60, 40))
    form = ImageForm(16, 16, (0.5,) * 3, (0.25,) * 3, 0.8, "bicubic")
    reference = create_transform(
        (3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3, crop_pct=0.8, interpolation="bicubic"
    )
    assert torch.allclose(form.prepare(image), reference(image), atol=1e-5)


def test_npz_of_pixels_equals_the_same_images_in_a_folder(tmp_path):
    stack = np.stack([pixels(i) for i in range(3)])
    np.savez(tmp_path / "x.npz", x=stack, y=np.array([4, 5, 6]))
    (tmp_path / "folder").mkdir()
    for i in range(3):
        (tmp_path / "folder" / f"{i}.png").write_bytes(png(stack[i]))
    arrays, folder = (open_data(str(tmp_path / name), IMAGES) for name in ("x.npz", "folder"))
    for (a, label), (b, _) in zip(arrays.samples(), folder.samples(), strict=True):
        assert torch.equal(a[0], b[0]) and int(label) in (4, 5, 6)


def test_npz_of_floats_is_taken_as_it_is(tmp_path):
    value = np.random.default_rng(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=value)
    data = open_data(str(tmp_path / "x.npz"), IMAGES, limit=4)
    assert torch.equal(torch.stack([s[0][0] for s in data.samples()]), torch.from_numpy(value[:4]))


def test_a_limit_takes_of_every_class_where_samples_stand_sorted_by_class(tmp_path):
    """The first N would all be of one class; where the labels are mixed, the first N it is."""
    stack = np.stack([pixels(i) for i in range(9)])
    for name, labels in (("sorted", [0, 0, 0, 1, 1, 1, 2, 2, 2]), ("mixed", [0, 1, 0, 2, 1, 1, 2, 0, 2])):
        np.savez(tmp_path / f"{name}.npz", x=stack, y=np.array(labels))
        (tmp_path / name).mkdir()
        for i in range(9):
            (tmp_path / name / f"{i}.png").write_bytes(png(stack[i]))
        rows = "".join(f"{i}.png,{label}\n" for i, label in enumerate(labels))
        (tmp_path / name / "labels.csv").write_text("file,label\n" + rows)
        wanted = [0, 3, 6] if name == "sorted" else [0, 1, 2]
        for source in (f"{name}.npz", name):
            found = list(open_data(str(tmp_path / source), IMAGES, limit=3).samples())
            everything = list(open_data(str(tmp_path / source), IMAGES).samples())
            assert [int(label) for _, label in found] == [labels[i] for i in wanted]
            assert all(torch.equal(found[at][0][0], everything[i][0][0]) for at, i in enumerate(wanted))


def test_pickled_arrays_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="plain arrays"):
        open_data(str(tmp_path / "bad.npz"), IMAGES)


def test_token_sequences_are_cut_padded_and_shifted(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.arange(1, 13, dtype=np.int16), offsets=np.array([0, 8, 12]))
    (first, label), (second, other) = open_data(str(tmp_path / "t.npz"), TOKENS).samples()
    assert first[0].tolist() == [1, 2, 3, 4, 5, 6] and label.tolist() == [2, 3, 4, 5, 6, IGNORED]
    assert second[0].tolist() == [9, 10, 11, 12, 0, 0]
    assert other.tolist() == [10, 11, 12, IGNORED, IGNORED, IGNORED]


def test_masks_cover_the_real_tokens(tmp_path):
    form = InputForm((*TOKENS.examples, torch.ones(2, 6, dtype=torch.long)), TOKENS.data_config)
    np.savez(tmp_path / "t.npz", ids=np.arange(1, 5), offsets=np.array([0, 4]))
    ((inputs, _),) = open_data(str(tmp_path / "t.npz"), form).samples()
    assert inputs[1].tolist() == [1, 1, 1, 1, 0, 0]


def test_tokens_of_another_vocabulary_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.array([1, 700]), offsets=np.array([0, 2]))
    with pytest.raises(UserError, match="token 700 is outside"):
        open_data(str(tmp_path / "t.npz"), TOKENS)


def test_piece_tokenizer_merges_the_highest_score_first(tmp_path):
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        " ",
        "a",
        "b",
        "ab",
        "ba",
        " a",
        "aba",
    ]
    scores = [0.0] * 259 + [0, 0, 0, 1.0, 3.0, 2.0, 9.0]
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"pieces": pieces, "scores": scores}))
    encode = load_tokenizer(path)
    named = [pieces[i] for i in encode("aba")]
    assert named == ["<s>", " ", "aba"]  # ba (3) before ab (1), then aba (9) before " a" (2)
    assert encode("é")[2:] == [0xC3 + 3, 0xA9 + 3]


def test_stories_tokenizer_reproduces_the_published_ids():
    encode = load_tokenizer(shared("data/models/stories260k_tokenizer.json"))
    archive = np.load(shared("data/text/tinystories_a_tok512.npz"), allow_pickle=False)
    text = shared("data/text/tinystories_a.txt").read_text(encoding="utf-8")
    story = archive["ids"][archive["offsets"][0] : archive["offsets"][1]].tolist()
    assert encode(text[:300])[:50] == story[:50]


def test_text_needs_a_tokenizer_and_becomes_windows(tmp_path):
    (tmp_path / "a.txt").write_text("once upon a time there was a small house " * 3)
    with pytest.raises(UserError, match="--tokenizer"):
        open_data(str(tmp_path / "a.txt"), TOKENS)
    tokenizer = shared("data/models/stories260k_tokenizer.json")
    data = open_data(str(tmp_path / "a.txt"), TOKENS, tokenizer=tokenizer)
    windows = [inputs[0].tolist() for inputs, _ in data.samples()]
    assert len(windows) > 3 and all(len(window) == 6 for window in windows)
    assert [token for window in windows for token in window] == load_tokenizer(tokenizer)(
        (tmp_path / "a.txt").read_text().strip()
    )[: 6 * len(windows)]


def test_user_function(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "def samples():\n    return ((np.full((3, 8, 8), i, dtype=np.float64), i) for i in range(5))\n"
        "def wrong():\n    return [np.zeros((3, 4, 4))]\n"
    )
    data = open_data(f"{tmp_path}/mine.py:samples", IMAGES, limit=3)
    assert [int(label) for _, label in data.samples()] == [0, 1, 2] and data.record.count == 3
    assert next(iter(data.samples()))[0][0].dtype == torch.float32
    with pytest.raises(UserError, match="the model takes"):
        open_data(f"{tmp_path}/mine.py:wrong", IMAGES)
    with pytest.raises(UserError, match="no function"):
        open_data(f"{tmp_path}/mine.py:absent", IMAGES)


@pytest.mark.parametrize(
    "name, message", [("none", "no such file"), ("a.bin", "pass a folder"), ("empty", "no images")]
)
def test_what_cannot_be_read_is_named(tmp_path, name, message):
    (tmp_path / "a.bin").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        open_data(str(tmp_path / name), IMAGES)
    with pytest.raises(UserError, match="--limit"):
        open_data(str(tmp_path / "empty"), IMAGES, limit=0)


def test_images_for_a_text_model_are_refused(tmp_path):
    (tmp_path / "0.png").write_bytes(png(pixels(0)))
    with pytest.raises(UserError, match="images were given"):
        open_data(str(tmp_path), TOKENS)


GREY = InputForm((torch.zeros(2, 1, 8, 8),), {"mean": (0.25, 0.5, 0.75), "std": (0.25,) * 3})


def labels_of(path, form=IMAGES):
    data = open_data(str(path), form)
    return [None if label is None else int(label) for _, label in data.samples()]


def test_a_network_of_one_channel_sees_grey_images(tmp_path):
    """The mean of a grey image is that of the three colours; arrays of grey pictures need no axis of channels."""
    (tmp_path / "0.png").write_bytes(png(pixels(0)))
    ((image,), _), *_ = open_data(str(tmp_path), GREY).samples()
    grey = np.asarray(Image.fromarray(pixels(0)).convert("L"))
    assert np.allclose(image.numpy(), (grey[None] / 255 - 0.5) / 0.25, atol=1e-6)
    np.savez(tmp_path / "plain.npz", x=grey[None])
    np.savez(tmp_path / "axis.npz", x=grey[None, :, :, None])
    for name in ("plain.npz", "axis.npz"):
        assert torch.equal(next(open_data(str(tmp_path / name), GREY).samples())[0][0], image)


def test_pictures_with_the_channels_first_are_the_same_pictures(tmp_path):
    stack = np.stack([pixels(i) for i in range(2)])
    np.savez(tmp_path / "last.npz", x=stack)
    np.savez(tmp_path / "first.npz", x=stack.transpose(0, 3, 1, 2))
    last, first = (
        list(open_data(str(tmp_path / name), IMAGES).samples()) for name in ("last.npz", "first.npz")
    )
    assert all(torch.equal(a[0][0], b[0][0]) for a, b in zip(last, first, strict=True))


def test_bytes_for_a_network_that_takes_bytes_stay_as_they_are(tmp_path):
    form = InputForm((torch.zeros(1, 8, 8, 3, dtype=torch.uint8),), {})
    np.savez(tmp_path / "x.npz", x=pixels(0)[None])
    assert np.array_equal(next(open_data(str(tmp_path / "x.npz"), form).samples())[0][0].numpy(), pixels(0))


def test_sixteen_bits_keep_their_upper_half(tmp_path):
    levels = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1024
    (tmp_path / "0.png").write_bytes(png(levels))
    image = next(open_data(str(tmp_path), IMAGES).samples())[0][0]
    assert np.allclose(image[0].numpy(), ((levels >> 8) / 255 - 0.5) / 0.25, atol=1e-6)


def test_a_folder_around_all_classes_and_what_systems_add_count_for_nothing(tmp_path):
    def archive(name, files):
        with zipfile.ZipFile(tmp_path / name, "w") as made:
            for path in files:
                made.writestr(path, png(pixels(0)) if "._" not in path else b"extra")
        return tmp_path / name

    classes = ["ape/0.png", "ape/1.png", "bee/0.png"]
    assert labels_of(archive("plain.zip", classes)) == [0, 1, 0]
    assert labels_of(archive("top.zip", [f"set/val/{name}" for name in classes])) == [0, 1, 0]
    assert labels_of(archive("mac.zip", [*classes, "__MACOSX/ape/._0.png", "bee/._0.png"])) == [0, 1, 0]
    assert labels_of(archive("lone.zip", ["ape/0.png", "ape/1.png"])) == [None, None]


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_table_inside_the_folder_around_all_images(tmp_path, mark):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("set/labels.csv", f"{mark}file,label\nb.png,7\na.png,3\n")
        for name in ("a.png", "b.png"):
            archive.writestr(f"set/{name}", png(pixels(0)))
    assert labels_of(tmp_path / "a.zip") == [7, 3]


@pytest.mark.parametrize(
    "table, message",
    [
        (b"file;label\n0.png;1\n", "columns file,label"),
        ("file,label\né,1\n".encode("latin-1"), "in UTF-8"),
        (b"file,label\n", "names no image"),
        (b"file,label\n1.png,1\n", "1.png, which is not there"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path, table, message):
    (tmp_path / "0.png").write_bytes(png(pixels(0)))
    (tmp_path / "labels.csv").write_bytes(table)
    with pytest.raises(UserError, match=message):
        open_data(str(tmp_path), IMAGES)


def test_a_broken_image_is_named_without_addresses(tmp_path):
    (tmp_path / "0.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"0\.png is not a readable image \(not an image that Pillow knows\)"):
        list(open_data(str(tmp_path), IMAGES).samples())


VALUES = np.zeros((2, 3, 8, 8), np.float32)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"images": VALUES}, r"holds images \(2, 3, 8, 8\)"),
        ({"x": VALUES[:0]}, "no sample"),
        ({"x": np.float32(1)}, "real numbers"),
        ({"x": np.array(["a", "b"])}, "real numbers"),
        ({"x": VALUES + 1j}, "real numbers"),
        ({"x": VALUES + np.nan}, "NaN or infinity"),
        ({"x": VALUES, "y": np.array(["a", "b"])}, "y is <U1"),
        ({"x": VALUES, "y": np.array([1])}, "1 labels for 2 samples"),
        ({"ids": np.array([1.5, 2]), "offsets": np.array([0, 2])}, "whole numbers"),
        ({"ids": np.arange(4), "offsets": np.array([0, 3, 1, 4])}, "offsets must rise within 0 and 4"),
        ({"ids": np.arange(4), "offsets": np.array([0, 9])}, "offsets must rise within 0 and 4"),
        ({"ids": np.arange(4), "offsets": np.array([-2, 4])}, "offsets must rise within 0 and 4"),
        ({"x": np.zeros((2, 0, 0, 3), np.uint8)}, r"x of shape \(2, 0, 0, 3\) holds no sample"),
        ({"x0": VALUES, "x1": VALUES}, "holds x0, x1, but the model takes x; write"),
    ],
)
def test_arrays_that_are_no_data_are_named(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    form = TOKENS if "ids" in arrays else IMAGES
    with pytest.raises(UserError, match=message):
        list(open_data(str(tmp_path / "x.npz"), form).samples())


def test_an_npz_that_is_none_is_no_matter_of_pickles(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK nothing")
    with pytest.raises(UserError, match=r"not an \.npz"):
        open_data(str(tmp_path / "x.npz"), IMAGES)


def test_a_member_that_is_no_array_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", b"nothing of numpy's")
    with pytest.raises(UserError, match="its member x is no array"):
        open_data(str(tmp_path / "x.npz"), IMAGES)


def test_the_tenth_input_stands_behind_the_second(tmp_path: Path) -> None:
    form = InputForm(tuple(torch.zeros(1, 1) for _ in range(11)), {})
    np.savez(
        tmp_path / "x.npz", allow_pickle=False, **{f"x{i}": np.full((1, 1), i, np.float32) for i in range(11)}
    )
    ((inputs, _),) = open_data(str(tmp_path / "x.npz"), form).samples()
    assert [float(tensor) for tensor in inputs] == list(range(11))


@pytest.mark.parametrize("value", [1.5, 300.0])
def test_numbers_that_the_models_type_does_not_hold_are_refused(tmp_path: Path, value: float) -> None:
    form = InputForm((torch.zeros(1, 2, dtype=torch.uint8),), {})
    np.savez(tmp_path / "fits.npz", x=np.full((1, 2), 200.0))
    assert next(open_data(str(tmp_path / "fits.npz"), form).samples())[0][0].tolist() == [200, 200]
    np.savez(tmp_path / "x.npz", x=np.full((1, 2), value))
    with pytest.raises(UserError, match="no uint8, which the model takes; give whole numbers"):
        list(open_data(str(tmp_path / "x.npz"), form).samples())


def test_the_first_frame_of_files_with_several(tmp_path: Path) -> None:
    frames = [Image.fromarray(pixels(seed)) for seed in range(2)]
    frames[0].save(tmp_path / "0.tiff", save_all=True, append_images=frames[1:])
    frames[0].convert("L").save(tmp_path / "1.gif", save_all=True, append_images=frames[1:])
    (colours, _), (grey, _) = open_data(str(tmp_path), IMAGES).samples()
    assert np.allclose(colours[0].numpy(), (pixels(0).transpose(2, 0, 1) / 255 - 0.5) / 0.25, atol=1e-6)
    assert np.allclose(grey[0][0].numpy(), (np.asarray(frames[0].convert("L")) / 255 - 0.5) / 0.25, atol=1e-6)


def test_images_of_fractions_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)).save(tmp_path / "0.tiff")
    with pytest.raises(UserError, match=r"0\.tiff holds fractions, no pixels"):
        list(open_data(str(tmp_path), IMAGES).samples())


def test_tokens_outside_the_table_that_an_input_feeds_are_refused(tmp_path: Path) -> None:
    form = InputForm(TOKENS.examples, {}, (50,))
    np.savez(tmp_path / "ids.npz", ids=np.arange(60), offsets=np.array([0, 60]))
    np.savez(tmp_path / "x.npz", x=np.full((1, 6), 50))
    np.savez(tmp_path / "below.npz", x=np.full((1, 6), -1))
    list(open_data(str(tmp_path / "ids.npz"), form).samples())  # cut before the fiftieth
    for name, token in (("x.npz", 50), ("below.npz", -1)):
        with pytest.raises(UserError, match=f"token {token} is outside the model's 50; pass"):
            list(open_data(str(tmp_path / name), form).samples())


def test_negative_tokens_need_no_vocabulary_to_be_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", ids=np.array([1, -2]), offsets=np.array([0, 2]))
    with pytest.raises(UserError, match="token -2 is negative; tokens count from 0"):
        open_data(str(tmp_path / "t.npz"), InputForm(TOKENS.examples, {}))


@pytest.mark.parametrize(
    "document, message",
    [
        ([1], "not a tokenizer.json"),
        ({"pieces": 3, "scores": 4}, "pieces must be a list of texts"),
        ({"pieces": ["a", 1], "scores": [0, 0]}, "pieces must be a list of texts"),
        ({"pieces": ["a"], "scores": []}, "scores one of as many numbers"),
        ({"pieces": ["a"], "scores": ["b"]}, "scores one of as many numbers"),
        ({"pieces": ["a"], "scores": [0]}, "holds 1 pieces; give all of them"),
    ],
)
def test_what_is_no_tokenizer_is_named(tmp_path: Path, document: object, message: str) -> None:
    (tmp_path / "t.json").write_text(json.dumps(document))
    with pytest.raises(UserError, match=f"--tokenizer .*{message}"):
        load_tokenizer(tmp_path / "t.json")


def test_negative_tokens_are_refused(tmp_path):
    np.savez(tmp_path / "t.npz", ids=np.array([1, -2]), offsets=np.array([0, 2]))
    with pytest.raises(UserError, match="token -2 is outside"):
        open_data(str(tmp_path / "t.npz"), TOKENS)
