"""XMP: read even where parsers refuse it, and written with the provenance in it and true for the upright picture.

Prefixes, order and everything that nobody speaks of here stay as they were. lxml reads, because it keeps prefixes and
can be told to go on behind an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lxml import etree

from tasks.pictures.turning import Turning

PROJECT = "urn:mpsr-batch:provenance/1.0/"
"""Namespace of the provenance in XMP; one property per key of the provenance."""
NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "xmpMM": "http://ns.adobe.com/xap/1.0/mm/",
    "stEvt": "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#",
    "stRef": "http://ns.adobe.com/xap/1.0/sType/ResourceRef#",
    "stDim": "http://ns.adobe.com/xap/1.0/sType/Dimensions#",
    "stArea": "http://ns.adobe.com/xmp/sType/Area#",
    "xmpRights": "http://ns.adobe.com/xap/1.0/rights/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "dc": "http://purl.org/dc/elements/1.1/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "crs": "http://ns.adobe.com/camera-raw-settings/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
    "Iptc4xmpCore": "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "mwg-rs": "http://www.metadataworkinggroup.com/schemas/regions/",
    "MP": "http://ns.microsoft.com/photo/1.2/",
    "MPRI": "http://ns.microsoft.com/photo/1.2/t/RegionInfo#",
    "MPReg": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "acdsee-rs": "http://ns.acdsee.com/regions/",
    "acdsee-stArea": "http://ns.acdsee.com/sType/Area#",
    "acdsee-stDim": "http://ns.acdsee.com/sType/Dimensions#",
    "MicrosoftPhoto": "http://ns.microsoft.com/photo/1.0/",
    "GCamera": "http://ns.google.com/photos/1.0/camera/",
    "Container": "http://ns.google.com/photos/1.0/container/",
    "Item": "http://ns.google.com/photos/1.0/container/item/",
    "hdrgm": "http://ns.adobe.com/hdr-gain-map/1.0/",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "mpsr": PROJECT,
}
"""Prefixes as other software writes them; what a packet leaves undeclared is taken from here."""
EMPTY_PACKET = f'<x:xmpmeta xmlns:x="{NAMESPACES["x"]}"><rdf:RDF xmlns:rdf="{NAMESPACES["rdf"]}"/></x:xmpmeta>'
HEAD = b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
TAIL = b'\n<?xpacket end="w"?>'
SOURCE_TYPE = "digital_source_type"
"""Key of the provenance that is also IPTC's `DigitalSourceType`, an address of its controlled vocabulary."""
_PACKET = re.compile(rb"<(?:\w+:)?(xmpmeta|xapmeta|RDF)\b.*</(?:\w+:)?\1\s*>", re.DOTALL)
_TAG = re.compile(rb"<[^>]*>")
_PREFIX = re.compile(rb"[<\s]([A-Za-z_][\w.-]*):[A-Za-z_][\w.-]*(?=[\s=/>])")
_DECLARED = re.compile(rb"xmlns:([\w.-]+)\s*=\s*[\"']([^\"']*)[\"']")


def is_readable(packet: bytes) -> bool:
    """Whether anything of it can be read, with all the tolerance there is."""
    return not packet.strip(b"\0 \t\r\n") or _read(packet) is not None


def orientation_in(packet: bytes | None) -> int | None:
    """The orientation that it holds (tiff:Orientation), 1 to 8; None without."""
    frame = _read(packet or b"")
    found = [] if frame is None else [each.text for each in _properties(frame, _name("tiff", "Orientation"))]
    return int(found[0]) if found and found[0] in set("12345678") else None


def with_provenance(packet: bytes | None, provenance: Mapping[str, str], turning: Turning) -> bytes:
    """The packet with an entry in its history, the provenance as properties, and true for the upright picture.

    provenance: text by key, such as software, recipe, key, original, weights. Keys become properties of the
    project's namespace, so they have to be XML names. A packet of which nothing can be read is replaced.
    """
    root = _parsed(packet)
    frame = _frame(root)
    _turn(frame, turning)
    _forget_pictures_behind(frame)
    about = next((each.get(_name("rdf", "about")) for each in _elements(frame) if each.get(_name("rdf", "about"))), "")
    own = {"mpsr": PROJECT, "xmpMM": NAMESPACES["xmpMM"], "stEvt": NAMESPACES["stEvt"]}
    description = etree.SubElement(frame, _name("rdf", "Description"), {_name("rdf", "about"): about}, nsmap=own)
    for key, text in sorted(provenance.items()):
        _forget(frame, _name("mpsr", key))
        description.set(_name("mpsr", key), text)
    if SOURCE_TYPE in provenance:
        _forget(frame, _name("Iptc4xmpExt", "DigitalSourceType"))
        source = etree.SubElement(frame, _name("rdf", "Description"), nsmap={"Iptc4xmpExt": NAMESPACES["Iptc4xmpExt"]})
        source.set(_name("rdf", "about"), about)
        source.set(_name("Iptc4xmpExt", "DigitalSourceType"), provenance[SOURCE_TYPE])
    _add_event(frame, description, provenance)
    for empty in [each for each in frame if not len(each) and set(each.attrib) <= {_name("rdf", "about")}]:
        frame.remove(empty)
    body: bytes = etree.tostring(root, encoding="utf-8")
    return HEAD + body + TAIL


def read_provenance(packet: bytes | None) -> dict[str, str]:
    """What `with_provenance` wrote last, by key; empty where it wrote nothing."""
    prefix = "{" + PROJECT + "}"
    return {
        str(name).removeprefix(prefix): str(text)
        for element in _frame(_parsed(packet)).iter("*")
        for name, text in element.attrib.items()
        if str(name).startswith(prefix)
    }


def _parsed(packet: bytes | None) -> etree._Element:
    found = _read(packet or b"")
    return etree.fromstring(EMPTY_PACKET) if found is None else found


def _read(packet: bytes) -> etree._Element | None:
    """The packet's root; None where nothing can be read. A document type, which no XMP has, is not (entities)."""
    text = packet.strip(b"\0 \t\r\n")
    if not text or b"<!DOCTYPE" in text:
        return None
    try:
        return etree.fromstring(text, _parser(recover=False))
    except (etree.XMLSyntaxError, ValueError):
        pass
    whole = _PACKET.search(text)
    if whole is None:
        return None
    try:
        found = etree.fromstring(_declared(whole[0]), _parser(recover=True))
    except (etree.XMLSyntaxError, ValueError):
        return None
    if found is None or next(found.iter(_name("rdf", "RDF")), None) is None:
        return None
    for element in _elements(found):
        attributes = dict(element.attrib)  # one that stands there twice, once
        element.attrib.clear()
        element.attrib.update(attributes)
    return found


def _parser(*, recover: bool) -> etree.XMLParser:
    return etree.XMLParser(resolve_entities=False, no_network=True, recover=recover, remove_blank_text=False)


def _declared(text: bytes) -> bytes:
    """The packet with every prefix declared at its root that it uses."""
    used = {prefix for tag in _TAG.findall(text) for prefix in _PREFIX.findall(tag)} - {b"xml", b"xmlns"}
    declared = dict(_DECLARED.findall(text))
    first = _TAG.search(text)
    assert first is not None
    at_root = {prefix for prefix, _ in _DECLARED.findall(first[0])}
    known = {prefix.encode(): uri.encode() for prefix, uri in NAMESPACES.items()}
    places = ((prefix, declared.get(prefix) or known.get(prefix, b"urn:undeclared:" + prefix)) for prefix in used)
    added = b"".join(b' xmlns:%b="%b"' % each for each in sorted(places) if each[0] not in at_root)
    name_end = re.search(rb"[\s/>]", first[0])
    assert name_end is not None
    at = first.start() + name_end.start()
    return text[:at] + added + text[at:]


def _frame(root: etree._Element) -> etree._Element:
    """The RDF element, made where there is none."""
    name = _name("rdf", "RDF")
    found = next(root.iter(name), None)
    return etree.SubElement(root, name) if found is None else found


def _name(prefix: str, local: str) -> str:
    return f"{{{NAMESPACES[prefix]}}}{local}"


def _elements(frame: etree._Element) -> list[etree._Element]:
    return list(frame.iter("*"))


@dataclass(frozen=True)
class Property:
    """Where a property's text stands: in an attribute, or (`attribute` is None) in an element of its own."""

    element: etree._Element
    attribute: str | None

    @property
    def text(self) -> str:
        return str(self.element.get(self.attribute) if self.attribute else self.element.text or "").strip()

    def put(self, text: str) -> None:
        if self.attribute:
            self.element.set(self.attribute, text)
        else:
            self.element.text = text


def _properties(above: etree._Element, name: str) -> Iterator[Property]:
    """Every property of that name at or below an element."""
    for element in _elements(above):
        if name in element.attrib:
            yield Property(element, name)
        if element.tag == name:
            yield Property(element, None)


def _forget(frame: etree._Element, name: str) -> None:
    for element in _elements(frame):
        element.attrib.pop(name, None)
        parent = element.getparent()
        if element.tag == name and parent is not None:
            parent.remove(element)


def _turn(frame: etree._Element, turning: Turning) -> None:
    """Orientation 1, the picture's size, and regions where they lie upright."""
    facts = {
        _name("tiff", "Orientation"): 1,
        _name("exif", "Orientation"): 1,
        _name("tiff", "ImageWidth"): turning.width,
        _name("tiff", "ImageLength"): turning.height,
        _name("exif", "PixelXDimension"): turning.width,
        _name("exif", "PixelYDimension"): turning.height,
    }
    for name, value in facts.items():
        for place in _properties(frame, name):
            place.put(str(value))
    for regions in frame.iter(_name("mwg-rs", "Regions"), _name("acdsee-rs", "Regions")):
        _turn_regions(regions, turning)
    for rectangle in _properties(frame, _name("MPReg", "Rectangle")):
        box = _numbers(rectangle.text.split(","))
        if len(box) == 4:
            rectangle.put(", ".join(_spelt(each) for each in turning.box(*box)))
    for boundary in frame.iter(_name("Iptc4xmpExt", "RegionBoundary")):
        _turn_area(boundary, ("rbX", "rbY", "rbW", "rbH"), "Iptc4xmpExt", turning, centred=False)


def _turn_regions(regions: etree._Element, turning: Turning) -> None:
    """Face regions, unless the size to which they apply says that they lie on the upright picture already."""
    pairs = ([_one(regions, _name(prefix, side)) for side in "wh"] for prefix in ("stDim", "acdsee-stDim"))
    width, height = next((pair for pair in pairs if all(pair)), (None, None))
    if width and height and turning.transposes and _lies_upright(width.text, height.text, turning):
        return
    for prefix in ("stArea", "acdsee-stArea"):
        for area in [each for each in _elements(regions) if _has_area(each, prefix)]:
            _turn_area(area, ("x", "y", "w", "h"), prefix, turning, centred=True)
    if width and height:
        width.put(str(turning.width))
        height.put(str(turning.height))


def _lies_upright(width: str, height: str, turning: Turning) -> bool:
    sizes = _numbers([width, height])
    return len(set(sizes)) == 2 and (sizes[0] > sizes[1]) == (turning.width > turning.height)


def _has_area(element: etree._Element, prefix: str) -> bool:
    x = _name(prefix, "x")
    return x in element.attrib or any(child.tag == x for child in element)


def _turn_area(
    area: etree._Element, names: tuple[str, str, str, str], prefix: str, turning: Turning, *, centred: bool
) -> None:
    """A rectangle, or a point, in shares of the picture; `centred` where x and y are its middle."""
    found = [_one(area, _name(prefix, name)) for name in names]
    numbers = [_numbers([each.text]) if each else [] for each in found]
    if not all(numbers[:2]) or any(each[0] > 1 for each in numbers if each):
        return  # in pixels, or nothing to be understood
    x, y, w, h = (each[0] if each else 0.0 for each in numbers)
    left, top = (x - w / 2, y - h / 2) if centred else (x, y)
    left, top, w, h = turning.box(left, top, w, h)
    x, y = (left + w / 2, top + h / 2) if centred else (left, top)
    for place, value in zip(found, (x, y, w, h), strict=True):
        if place:
            place.put(_spelt(value))


def _one(above: etree._Element, name: str) -> Property | None:
    return next(_properties(above, name), None)


def _numbers(texts: list[str]) -> list[float]:
    try:
        return [float(text) for text in texts]
    except ValueError:
        return []


def _spelt(share: float) -> str:
    return f"{share:.6f}".rstrip("0").rstrip(".")


def _forget_pictures_behind(frame: etree._Element) -> None:
    """What Ultra HDR and its like say of further pictures in the file, which a result does not hold."""
    _forget(frame, _name("hdrgm", "Version"))
    kept = ("Primary", "MotionPhoto")
    for item in list(frame.iter(_name("rdf", "li"))):
        semantic, parent = _one(item, _name("Item", "Semantic")), item.getparent()
        if semantic and semantic.text not in kept and parent is not None:
            parent.remove(item)


def _add_event(frame: etree._Element, description: etree._Element, provenance: Mapping[str, str]) -> None:
    """Appends to the file's history (xmpMM:History), which is made where there is none."""
    history = next(frame.iter(_name("xmpMM", "History")), None)
    if history is None:
        history = etree.SubElement(description, _name("xmpMM", "History"))
    sequence = history.find(_name("rdf", "Seq"))
    if sequence is None:
        sequence = etree.SubElement(history, _name("rdf", "Seq"))
    item = etree.SubElement(sequence, _name("rdf", "li"), {_name("rdf", "parseType"): "Resource"})
    event = {
        "action": "edited",
        "softwareAgent": provenance.get("software", "mpsr-batch"),
        "parameters": json.dumps(dict(sorted(provenance.items()))),
    }
    for key, text in event.items():
        etree.SubElement(item, _name("stEvt", key), nsmap={"stEvt": NAMESPACES["stEvt"]}).text = text
