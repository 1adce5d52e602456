"""A shard in work: which items each stage gets, and what the images' verdicts are.

Pure bookkeeping over events: no Prefect, no Ray, no pixels. An event is what a worker returned or what the ledger
holds of an earlier run; both are treated alike, which is what makes a second run a resume.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from infra.ledger import COMMIT, Event
from infra.workers import Failure
from tasks.archive import VerdictDetail, books
from tasks.recipes import Recipe, RecipeStage, stage_key
from tasks.stage import WHOLE_IMAGE, ImageRef
from tasks.worker import FaceItem, Item, PasteItem, PictureItem, Result

FAILED = ("failed_retryable", "quarantined")
TRY_AGAIN = ("failed_retryable", "pending")


@dataclass(frozen=True, slots=True)
class Planned:
    """An image to be done: every path that holds it, why it is done, and how often it was tried in vain."""

    paths: tuple[str, ...]
    why: str = "new"
    attempt: int = 0


class Shard:
    """A fixed set of images of one bucket, with the events that are known of them."""

    def __init__(
        self, shard_id: str, bucket: int, images: Mapping[str, Planned], recipe: Recipe, digests: Mapping[str, str]
    ) -> None:
        self.id, self.bucket, self.images = shard_id, bucket, images
        self.recipe, self.digests = recipe, digests
        self._place = {stage.id: n for n, stage in enumerate(recipe.stages)}
        self.events: dict[str, dict[tuple[str, int], Event]] = {}  # stage id → (image_id, face) → event
        self._checkpoints: set[str] = set()

    def adopt(
        self,
        events: Iterable[Event],
        exists: Callable[[str], bool],
        deliver: Callable[[Sequence[str], Event], bool],
    ) -> None:
        """Takes over events of earlier runs that are still true: same digest, settled, and with what they wrote.

        `deliver` brings the file that an event names to every path of its image, where there is a copy of it left.
        """
        for event in events:
            if event.stage_digest == self.digests.get(event.stage) and event.state not in TRY_AGAIN:
                self._put(event.stage, [event])
        self._drop_what_is_not_delivered(deliver)
        while self._drop_what_lost_its_images(exists):
            pass

    def forget_lost(self, exists: Callable[[str], bool]) -> bool:
        """Forgets failures where the images to be read had gone, and what should have left them; whether it did.

        These stages are to be done again then.
        """
        told = {stage_id: dict(events) for stage_id, events in self.events.items()}
        for events in self.events.values():
            for key in [key for key, event in events.items() if event.reason_code == "infrastructure"]:
                del events[key]
        lost = False
        while self._drop_what_lost_its_images(exists):
            lost = True
        if not lost:
            self.events = told
        return lost

    def items(self, stage: RecipeStage) -> tuple[list[Item], list[Event]]:
        """What is left to do at a stage, and the events of faces to which it does not apply (its gate is shut)."""
        waiting = self._waiting(stage)
        if stage.scope == "image":
            look = self._place[stage.id] == 0
            return [self._picture_item(stage, i) if look else self._paste_item(stage, i) for i, _ in waiting], []
        applies = [stage.applies_to(self._metrics(face, self._before(stage))) for face in waiting]
        items: list[Item] = [
            self._face_item(stage, face) for face, wanted in zip(waiting, applies, strict=True) if wanted
        ]
        shut = [self._gated(face, stage) for face, wanted in zip(waiting, applies, strict=True) if not wanted]
        return items, shut

    def apply(self, stage: RecipeStage, events: Iterable[Event]) -> None:
        """Takes a stage's events in. Doing so twice changes nothing."""
        self._put(stage.id, events)

    def left(self, results: Iterable[Result]) -> None:
        """Remembers the intermediates that micro-batches left, of which not every event speaks."""
        self._checkpoints |= {result.checkpoint for result in results if result.checkpoint}

    def given_up(self, stage: RecipeStage, failure: Failure) -> Event:
        """The event of an item that no worker could finish."""
        state = FAILED[1] if failure.kind == "poison" else FAILED[0]
        item: Item = failure.item
        face = item.face if isinstance(item, FaceItem) else WHOLE_IMAGE
        return self._event(
            stage.id, item.image_id, face, state, failure.reason_code, failure.reason, attempt=failure.attempts
        )

    def complete(self, stage: RecipeStage) -> bool:
        """Whether nothing is left to do at a stage."""
        return not self._waiting(stage)

    def replaced_by(self, stage: RecipeStage) -> list[Event]:
        """Verdicts that set the last ones aside before the stage writes over the files that they speak of.

        A run that dies between files and verdicts thus leaves no verdict that the files belie.
        """
        if stage.scope != "image" or self._place[stage.id] == 0:
            return []
        judged = [image_id for image_id, _ in self._waiting(stage) if self.images[image_id].why in ("stale", "missing")]
        return [self._event(COMMIT, image_id, WHOLE_IMAGE, "pending", "pending") for image_id in judged]

    def work_key(self, stage: RecipeStage, workspace: str) -> str:
        """Names this stage's work on this shard, in this workspace: what a cache may be asked for."""
        members = "\n".join(self.images)
        return hashlib.sha256(f"{workspace}\n{stage.id}\n{self.digests[stage.id]}\n{members}".encode()).hexdigest()

    def intermediates(self) -> set[str]:
        """Workspace paths of the intermediate files of the shard."""
        uris = {event.output_uri for events in self.events.values() for event in events.values()} | self._checkpoints
        return {uri for uri in uris if uri and uri.startswith("intermediates/")}

    def faces(self, image_id: str) -> list[FaceVerdict]:
        """What became of every face of an image, once all stages are done."""
        found = self._faces_of(image_id)
        return [
            FaceVerdict(self._judge(f), self._metrics(f, self.recipe.stages), self._aligned(f).detail) for f in found
        ]

    def verdicts(self) -> list[Event]:
        """One commit event per image, with the outcome of its files."""
        return [self._verdict(image_id) for image_id in self.images]

    def _put(self, stage_id: str, events: Iterable[Event]) -> None:
        known = self.events.setdefault(stage_id, {})
        known.update({(event.image_id, event.face): event for event in events})

    def _of(self, stage: RecipeStage, image_id: str, face: int = WHOLE_IMAGE) -> Event | None:
        return self.events.get(stage.id, {}).get((image_id, face))

    def _drop_what_is_not_delivered(self, deliver: Callable[[Sequence[str], Event], bool]) -> None:
        """A file that is gone, or that another recipe has written over since, is pasted again."""
        for stage in self.recipe.stages[1:]:
            if stage.scope == "image":
                known = self.events.get(stage.id, {})
                for key, event in list(known.items()):
                    if event.output_uri and not deliver(self.images[key[0]].paths, event):
                        del known[key]

    def _waiting(self, stage: RecipeStage) -> list[tuple[str, int]]:
        """Images (with face -1) or faces that have no event of this stage yet and should get one."""
        if self._place[stage.id] == 0:
            found = [(image_id, WHOLE_IMAGE) for image_id in self.images]
        elif stage.scope == "image":
            found = [(image_id, WHOLE_IMAGE) for image_id in self._to_paste()]
        else:
            found = [face for face in self._faces() if self._alive(face, stage)]
        return [each for each in found if self._of(stage, *each) is None]

    def _faces(self) -> list[tuple[str, int]]:
        return [face for image_id in self.images for face in self._faces_of(image_id)]

    def _faces_of(self, image_id: str) -> list[tuple[str, int]]:
        """The faces that detection found; their number stands in the image's own event."""
        image = self._of(self.recipe.stages[0], image_id)
        return [(image_id, n) for n in range(int(image.metrics.get("faces", 0)) if image else 0)]

    def _before(self, stage: RecipeStage) -> tuple[RecipeStage, ...]:
        return self.recipe.stages[: self._place[stage.id]]

    def _alive(self, face: tuple[str, int], stage: RecipeStage) -> bool:
        events = [self._of(s, *face) for s in self._before(stage)]
        return not self._stopped(face, stage) and not any(event and event.state in FAILED for event in events)

    def _stopped(self, face: tuple[str, int], stage: RecipeStage | None = None) -> bool:
        stages = self._before(stage) if stage else self.recipe.stages
        return any(s.stop_when and s.stop_when.holds(self._metrics(face, (*self._before(s), s))) for s in stages)

    def _metrics(self, face: tuple[str, int], stages: Sequence[RecipeStage]) -> dict[str, float]:
        """What these stages measured; a later stage may take a metric again, of an image that has changed since."""
        merged: dict[str, float] = {}
        for stage in stages:
            if event := self._of(stage, *face):
                merged |= event.metrics
        return merged

    def _images_for(self, stage: RecipeStage, face: tuple[str, int]) -> dict[str, ImageRef]:
        return {name: self._find(name, stage, face) for name in stage.reads}

    def _find(self, name: str, stage: RecipeStage, face: tuple[str, int]) -> ImageRef:
        """The newest image of that name; where no stage wrote one for this face, the aligned input stands in."""
        owner, _, image = name.rpartition(".")
        earlier = self._before(stage)
        if owner:
            earlier = earlier[: [s.id for s in earlier].index(owner) + 1]
        for writer in reversed(earlier):
            event = self._of(writer, *face)
            if image in writer.cls.writes and event and event.output_uri:
                return event.output_uri, image
        return self._aligned(face).output_uri or "", "aligned"

    def _aligned(self, face: tuple[str, int]) -> Event:
        """What detection said of a face."""
        return self.events[self.recipe.stages[0].id][face]

    def _key(self, stage: RecipeStage, image_id: str, face: int = WHOLE_IMAGE) -> str:
        return stage_key(image_id, face, self.digests[stage.id])

    def _picture_item(self, stage: RecipeStage, image_id: str) -> PictureItem:
        return PictureItem(image_id, self.images[image_id].paths, self._key(stage, image_id))

    def _face_item(self, stage: RecipeStage, face: tuple[str, int]) -> FaceItem:
        detail, metrics = self._aligned(face).detail, self._metrics(face, self._before(stage))
        return FaceItem(*face, self._key(stage, *face), self._images_for(stage, face), metrics, detail)

    def _to_paste(self) -> list[str]:
        """Images that get a file in the restored tree: every one that could be decoded and lost no face on the way."""
        told = [self.events.get(stage.id, {}) for stage in self._delivering()]
        lost = {image_id for events in told for (image_id, _), event in events.items() if event.state in FAILED}
        detected = ((i, self._of(self.recipe.stages[0], i)) for i in self.images if i not in lost)
        return [image_id for image_id, event in detected if event and event.state == "done"]

    def _paste_item(self, stage: RecipeStage, image_id: str) -> PasteItem:
        faces = [self._face_item(stage, face) for face in self._faces_of(image_id) if self._restored(face, stage)]
        told = [(s.id, self._of(s, image_id, face.face)) for s in self._restoring() for face in faces]
        restored_by = dict.fromkeys(name for name, event in told if event and event.state == "done")
        key = self._key(stage, image_id)
        return PasteItem(image_id, self.images[image_id].paths, key, tuple(faces), tuple(restored_by))

    def _restoring(self) -> list[RecipeStage]:
        """The stages that give faces new pixels."""
        return [stage for stage in self.recipe.stages[1:] if "restored" in stage.cls.writes]

    def _restored(self, face: tuple[str, int], stage: RecipeStage) -> bool:
        told = [event for s in self.recipe.stages if (event := self._of(s, *face))]
        return self._alive(face, stage) and all(event.state != "rejected_identity" for event in told)

    def _gated(self, face: tuple[str, int], stage: RecipeStage) -> Event:
        return self._event(stage.id, *face, "skipped", "gate_not_met", _shut(stage))

    def _drop_what_lost_its_images(self, exists: Callable[[str], bool]) -> bool:
        """Drops events whose images are gone although a stage that has still to run reads them."""
        lost: set[tuple[str, str]] = set()
        for stage in self.recipe.stages[1:]:
            for item in self.items(stage)[0]:
                faces = [item] if isinstance(item, FaceItem) else item.faces if isinstance(item, PasteItem) else []
                lost |= {(f.image_id, uri) for f in faces for uri, _ in f.images.values() if not exists(uri)}
        for events in self.events.values():
            for key in [k for k, event in events.items() if (k[0], event.output_uri) in lost]:
                del events[key]
        if lost:
            self._drop_faces_without_detection()
        return bool(lost)

    def _drop_faces_without_detection(self) -> None:
        """An image whose detection lost a single face is detected again as a whole."""
        first = self.events.get(self.recipe.stages[0].id, {})
        for image_id in self.images:
            if any(face not in first for face in self._faces_of(image_id)):
                for key in [(image_id, WHOLE_IMAGE), *self._faces_of(image_id)]:
                    first.pop(key, None)

    def _verdict(self, image_id: str) -> Event:
        faces = [self._judge(f) for f in self._faces_of(image_id)]
        pasted = self._pasted(image_id)
        if pasted and pasted.reason_code == "nothing_changed":
            faces = [_UNCHANGED if f.outcome == "restored" else f for f in faces]
        judged = [*self._judge_image(image_id), *faces]
        outcome = books.file_outcome(j.outcome for j in judged)
        decisive = next((j for j in judged if j.outcome == outcome), _UNCHANGED)
        return self._event(
            COMMIT,
            image_id,
            WHOLE_IMAGE,
            decisive.state,
            decisive.reason_code,
            decisive.reason,
            attempt=self.images[image_id].attempt + 1,
            outcome=outcome,
            detail=VerdictDetail(outcome=outcome, faces=Counter(f.outcome for f in faces)).to_detail(),
            output_uri=pasted.output_uri if pasted else None,
            output_sha256=pasted.output_sha256 if pasted else None,
            output_bytes=pasted.output_bytes if pasted else None,
        )

    def _judge_image(self, image_id: str) -> list[Judged]:
        """What the image's own events say, where they say more than that all went well."""
        detected = self._of(self.recipe.stages[0], image_id)
        if detected is None:
            return [Judged("pending", "pending", "pending")]
        told = (detected, self._pasted(image_id))
        return [Judged.of(event) for event in told if event and event.reason_code not in _SAYS_NOTHING]

    def _judge(self, face: tuple[str, int]) -> Judged:
        events = [event for s in self._delivering() if (event := self._of(s, *face))]
        for states in (FAILED, ("rejected_identity", "done_fallback")):
            if decisive := next((event for event in events if event.state in states), None):
                return Judged.of(decisive)
        if self._stopped(face):
            return Judged("left_alone", "skipped", "sharp_enough")
        return Judged("restored", "done", "ok")

    def _delivering(self) -> tuple[RecipeStage, ...]:
        """The stages up to the last paste-back: what is only measured afterwards changes no verdict."""
        last = max(n for n, stage in enumerate(self.recipe.stages) if stage.scope == "image")
        return self.recipe.stages[: last + 1]

    def _pasted(self, image_id: str) -> Event | None:
        pasting = [s for s in self.recipe.stages[1:] if s.scope == "image"]
        return next((event for s in pasting if (event := self._of(s, image_id))), None)

    def _event(
        self, stage_id: str, image_id: str, face: int, state: str, reason_code: str, reason: str = "", **more: Any
    ) -> Event:
        """What the driver itself has to say; `more` are further fields of the row."""
        now, digest = datetime.now(UTC), self.digests[stage_id]
        return Event(
            image_id=image_id,
            face=face,
            stage=stage_id,
            stage_key=stage_key(image_id, face, digest),
            stage_digest=digest,
            state=state,
            reason_code=reason_code,
            reason=reason,
            started=now,
            finished=now,
            device_ms=0.0,
            **more,
        )


@dataclass(frozen=True)
class Judged:
    """The verdict on one face, or on an image as a whole."""

    outcome: books.FileOutcome
    state: str
    reason_code: str
    reason: str = ""

    @classmethod
    def of(cls, event: Event) -> Judged:
        """The verdict that an event stands for."""
        code = event.reason_code or "ok"
        return cls(books.outcome_of(event.state, code), event.state, code, event.reason or "")


@dataclass(frozen=True)
class FaceVerdict:
    """A face's verdict, everything that was measured of it, and where detection says that it lies."""

    judged: Judged
    metrics: Mapping[str, float]
    detail: Mapping[str, Any]


def _shut(stage: RecipeStage) -> str:
    said = [f"{stage.entry.when} does not hold"] if stage.entry.when else []
    return ", or ".join([*said, f"{stage.entry.unless} holds"] if stage.entry.unless else said)


_UNCHANGED = Judged("left_alone", "done", "nothing_changed")
_SAYS_NOTHING = ("ok", "nothing_changed")
