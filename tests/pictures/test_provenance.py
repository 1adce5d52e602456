"""A restored picture says truly what it has become: IPTC's digital source type follows the classes of its stages."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import replace

import pytest
from fake_stages import Brighten
from made_files import photo, pillow
from PIL import Image

from tasks.pictures.blocks.xmp import SOURCE_TYPE, read_provenance, with_provenance
from tasks.pictures.turning import Turning
from tasks.recipes import Recipe
from tasks.recipes.recipe import load_recipe, recipe_names
from tasks.stages.table import STAGES
from tasks.worker.items import FaceItem, PasteItem, PictureItem
from tasks.worker.worker import Worker, WorkerConfig

IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/"
CAPTURED = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" {0}>{1}'
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
)


class Painter(Brighten):
    """A stage that would paint, had it learnt to."""

    name = "painter"
    generative = True


@pytest.mark.parametrize(
    ("attribute", "element"),
    [
        (f'Iptc4xmpExt:DigitalSourceType="{IPTC}digitalCapture"', ""),
        ("", f"<Iptc4xmpExt:DigitalSourceType>{IPTC}digitalCapture</Iptc4xmpExt:DigitalSourceType>"),
        ("", ""),
    ],
)
def test_the_originals_source_type_is_replaced(attribute, element):
    before = CAPTURED.format(attribute, element).encode()
    after = with_provenance(before, {SOURCE_TYPE: IPTC + "algorithmicallyEnhanced"}, Turning(1, 53, 37))
    assert b"digitalCapture" not in after
    assert f'Iptc4xmpExt:DigitalSourceType="{IPTC}algorithmicallyEnhanced"'.encode() in after


@pytest.mark.parametrize(
    ("restorer", "name", "word"),
    [
        ("fake_stages:Brighten", "brighten", "algorithmicallyEnhanced"),
        ("test_provenance:Painter", "painter", "compositeWithTrainedAlgorithmicMedia"),
    ],
)
def test_the_source_type_follows_the_stages_that_changed_a_face(tmp_path, restorer, name, word):
    original = pillow(photo(), "PNG")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(original)
    image_id = hashlib.sha256(original).hexdigest()
    worker = Worker(config(tmp_path, restorer))
    _, found = worker.run("detect_align", [PictureItem(image_id, ("a.png",), "k1")])
    face = FaceItem(image_id, 0, "k2", {"aligned": (found.checkpoint, "aligned")}, {}, found.event.detail)
    [made] = worker.run("restorer", [face])
    images = {"aligned": (found.checkpoint, "aligned"), "restored": (made.checkpoint, "restored")}
    item = PasteItem(image_id, ("a.png",), "k3", (replace(face, images=images),), ("restorer",))
    done = worker.run("paste_back", [item])[0]
    assert done.event.detail[SOURCE_TYPE] == IPTC + word
    with Image.open(io.BytesIO((tmp_path / "out" / "restored" / "a.png").read_bytes())) as image:
        said = read_provenance(image.info["xmp"])
        assert f'DigitalSourceType="{IPTC}{word}"'.encode() in image.info["xmp"]
    assert (said["stages"], said[SOURCE_TYPE]) == (name, IPTC + word)


def config(tmp_path, restorer: str) -> WorkerConfig:
    stages = [
        {"id": "detect_align", "settings": {"detector": "none"}},
        {"id": "restorer", "use": restorer},
        {"id": "paste_back"},
    ]
    recipe = Recipe.parse({"name": "test", "stage": stages})
    return WorkerConfig(
        source=str(tmp_path / "in"),
        workspace=str(tmp_path / "out"),
        recipe=recipe.to_dict(),
        digests={stage.id: "d" * 64 for stage in recipe.stages},
        weights={},
        weights_dir=str(tmp_path),
    )


def test_the_networks_that_paint_are_known():
    assert {"pisa_sr", "gfpgan", "diffbir"} <= STAGES.keys()
    painting = {stage.id for name in recipe_names() for stage in load_recipe(name).stages if stage.cls.generative}
    assert painting == {"pisa_sr", "gfpgan", "diffbir"}


@pytest.mark.parametrize("faces", [0, 1])
def test_a_result_is_as_old_as_its_original(tmp_path, faces):
    original, age = pillow(photo(), "PNG"), 157_766_400 * 10**9
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(original)
    os.utime(tmp_path / "in" / "a.png", ns=(age, age))
    image_id = hashlib.sha256(original).hexdigest()
    worker = Worker(config(tmp_path, "fake_stages:Brighten"))
    _, found = worker.run("detect_align", [PictureItem(image_id, ("a.png",), "k1")])
    images = dict.fromkeys(("aligned", "restored"), (found.checkpoint, "aligned"))
    face = FaceItem(image_id, 0, "k2", images, {}, found.event.detail)
    worker.run("paste_back", [PasteItem(image_id, ("a.png",), "k3", (face,) * faces)])
    assert (tmp_path / "out" / "restored" / "a.png").stat().st_mtime_ns == age
