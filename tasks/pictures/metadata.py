"""EXIF and XMP: what has to change when pixels are turned upright and restored, and nothing else.

EXIF is patched in place, so that maker notes keep their offsets. XMP is parsed and written again with the
provenance in it. It knows no container; the modules of `tasks.pictures.formats` put the blocks where they belong.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from xml.etree import ElementTree

from tasks.pictures.picture import Metadata, Picture

EXIF_PREFIX = b"Exif\0\0"
"""What stands before an EXIF block in JPEG, and in what Pillow takes and gives."""
ORIENTATION = 0x0112
PROJECT = "urn:mpsr-batch:provenance/1.0/"
"""Namespace of the provenance in XMP; one property per key of the provenance."""

NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "mpsr": PROJECT,
}
FOREIGN = {
    "exif": "http://ns.adobe.com/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "stRef": "http://ns.adobe.com/xap/1.0/sType/ResourceRef#",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
}
"""Prefixes that other software expects to find again, though any prefix would be valid."""

EMPTY_PACKET = f'<x:xmpmeta xmlns:x="{NAMESPACES["x"]}"><rdf:RDF xmlns:rdf="{NAMESPACES["rdf"]}"/></x:xmpmeta>'
HEAD = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
TAIL = b'\n<?xpacket end="w"?>'


def orientation_of(exif: bytes | None) -> int:
    """EXIF orientation, 1 to 8; 1 where there is none, or none that makes sense."""
    place = _orientation_place(exif or b"")
    if place is None or exif is None:
        return 1
    value = int(struct.unpack_from(place[1], exif, place[0])[0])
    return value if 1 <= value <= 8 else 1


def upright_exif(exif: bytes) -> bytes:
    """The same block with orientation 1 and its thumbnail, which shows the old pixels, unlinked."""
    patched = bytearray(exif)
    place = _orientation_place(exif)
    if place is not None:
        struct.pack_into(place[1], patched, place[0], 1)
    directory = _first_directory(exif)
    if directory is not None:
        order, start, count = directory
        link = start + 2 + 12 * count
        if link + 4 <= len(patched):
            struct.pack_into(order + "I", patched, link, 0)
    return bytes(patched)


def _first_directory(exif: bytes) -> tuple[str, int, int] | None:
    """Byte order, offset and entry count of IFD0, or None where the block is none."""
    orders = {b"II*\0": "<", b"MM\0*": ">"}
    order = orders.get(exif[:4])
    if order is None or len(exif) < 10:
        return None
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return None
    return order, start, struct.unpack_from(order + "H", exif, start)[0]


def _orientation_place(exif: bytes) -> tuple[int, str] | None:
    """Offset and struct format of the orientation's value."""
    directory = _first_directory(exif)
    if directory is None:
        return None
    order, start, count = directory
    for entry in range(start + 2, min(start + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind = struct.unpack_from(order + "HH", exif, entry)
        if tag == ORIENTATION and kind in (3, 4):
            return entry + 8, order + ("H" if kind == 3 else "I")
    return None


def with_provenance(packet: bytes | None, provenance: Mapping[str, str]) -> bytes:
    """The XMP packet with an entry in its history, the provenance as properties, and orientation 1.

    provenance: text by key, such as software, recipe, key, original, weights. Keys become properties of the
    project's namespace, so they have to be XML names. A packet that cannot be parsed is replaced by a fresh one.
    """
    for prefix, address in (NAMESPACES | FOREIGN).items():
        ElementTree.register_namespace(prefix, address)
    root = _parsed(packet)
    frame = root if root.tag == _name("rdf", "RDF") else root.find(_name("rdf", "RDF"))
    if frame is None:
        frame = ElementTree.SubElement(root, _name("rdf", "RDF"))
    _set_upright(frame)
    description = ElementTree.SubElement(frame, _name("rdf", "Description"), {_name("rdf", "about"): _about(frame)})
    for key, text in sorted(provenance.items()):
        _forget(frame, _name("mpsr", key))
        description.set(_name("mpsr", key), text)
    _add_event(frame, description, provenance)
    for empty in [each for each in frame if not len(each) and set(each.attrib) <= {_name("rdf", "about")}]:
        frame.remove(empty)
    body: bytes = ElementTree.tostring(root, encoding="utf-8")
    return HEAD + body + TAIL


def read_provenance(packet: bytes | None) -> dict[str, str]:
    """What `with_provenance` wrote last, by key; empty where it wrote nothing."""
    frame = _parsed(packet)
    prefix = "{" + PROJECT + "}"
    return {
        name.removeprefix(prefix): text
        for element in frame.iter()
        for name, text in element.attrib.items()
        if name.startswith(prefix)
    }


def _parsed(packet: bytes | None) -> ElementTree.Element:
    """The packet's root; a document type, which no XMP has, counts as unparseable (entity expansion)."""
    text = (packet or b"").strip(b"\0 \t\r\n")
    if text and b"<!DOCTYPE" not in text:
        try:
            return ElementTree.fromstring(text)
        except (ElementTree.ParseError, ValueError, LookupError):
            pass
    return ElementTree.fromstring(EMPTY_PACKET)


def _name(prefix: str, local: str) -> str:
    return f"{{{NAMESPACES[prefix]}}}{local}"


def _about(frame: ElementTree.Element) -> str:
    about = _name("rdf", "about")
    return next((each.attrib[about] for each in frame if about in each.attrib), "")


def _set_upright(frame: ElementTree.Element) -> None:
    orientation = _name("tiff", "Orientation")
    for element in frame.iter():
        if orientation in element.attrib:
            element.set(orientation, "1")
        if element.tag == orientation:
            element.text = "1"


def _forget(frame: ElementTree.Element, attribute: str) -> None:
    for element in frame:
        element.attrib.pop(attribute, None)


def _add_event(frame: ElementTree.Element, description: ElementTree.Element, provenance: Mapping[str, str]) -> None:
    """Appends to the file's history (xmpMM:History), which is made where there is none."""
    history = next(frame.iter(_name("xmpMM", "History")), None)
    if history is None:
        history = ElementTree.SubElement(description, _name("xmpMM", "History"))
    sequence = history.find(_name("rdf", "Seq"))
    if sequence is None:
        sequence = ElementTree.SubElement(history, _name("rdf", "Seq"))
    item = ElementTree.SubElement(sequence, _name("rdf", "li"), {_name("rdf", "parseType"): "Resource"})
    event = {
        "action": "edited",
        "softwareAgent": provenance.get("software", "mpsr-batch"),
        "parameters": json.dumps(dict(sorted(provenance.items()))),
    }
    for key, text in event.items():
        ElementTree.SubElement(item, _name("stEvt", key)).text = text


def described(found: Metadata, picture: Picture, provenance: Mapping[str, str]) -> Metadata:
    """The original's metadata, true for the upright and restored picture."""
    return dataclasses.replace(
        found,
        icc=None if picture.mode == "CMYK" else found.icc,
        exif=upright_exif(found.exif) if found.exif else None,
        xmp=with_provenance(found.xmp, provenance),
    )
