"""Which steps from state to state stand in a ledger although its rules do not allow them."""

from __future__ import annotations

from infra.ledger.schema import TRANSITIONS


def illegal_transitions(ledger):
    """'before -> after' → how often, over every event under one digest; empty where all is well."""
    pairs = ", ".join(f"('{a}', '{b}')" for a, followers in TRANSITIONS.items() for b in followers)
    found = ledger.query(f"""
        WITH steps AS (
            SELECT state, lag(state, 1, 'discovered') OVER w AS before,
                   lag(stage_digest, 1, stage_digest) OVER w IS NOT DISTINCT FROM stage_digest AS same_digest
            FROM events WINDOW w AS (PARTITION BY image_id, face, stage ORDER BY token, seq))
        SELECT before || ' -> ' || state AS step, count(*) AS n FROM steps
        WHERE same_digest AND (before, state) NOT IN ({pairs}) GROUP BY 1""")
    return dict(zip(found["step"].to_pylist(), found["n"].to_pylist(), strict=True))
