"""What happens to a source model's predictions on the way to the target's tokens, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from app import distribution_figures as figures
from app import scenes, tokens
from app.escape import drawn, plain
from app.inputs import stop_with
from app.scenes import Scene, pick_models, pick_shards
from app.state import Field, begin_with, gone_back
from fusion_core import Tokenizer
from fusion_core.distributions import TopK
from fusion_core.errors import FusionError
from fusion_core.fidelity import Tally, bits_per_byte
from fusion_core.fusion import LEVELS, RULES, cross_entropies, cross_entropy, fuse, fusion_weights
from fusion_core.inspection import OUTCOMES, reason
from fusion_core.text import show_bytes
from fusion_core.transfer import METHODS, Predictions, Transfer, find_places, transport_plan

_ORIGINS = ("Models", "Taught shards")
_COLORS = (
    "what happened",
    "gold token, nats",
    "damage, nats",
    "KL from the target, nats",
    "lost or tail",
    "best source",
)
_DEFAULT_METHODS = ("byte-exact", "boundary-hard", "boundary-soft", "ot", "fusellm-hard")
FIELDS = {
    **scenes.FIELDS,
    "origin": Field(options=_ORIGINS),
    "methods": Field(many=True, options=tuple(METHODS)),
    "color": Field(options=_COLORS),
    "strip_method": Field(options=tuple(METHODS)),
    "strip_source": Field(int),
    "distribution_part": Field(int, least=1),
    "rule": Field(options=tuple(RULES)),
    "level": Field(options=LEVELS),
    "position": Field(int),
}
# Tokens that one view of the row holds.
_WINDOW = 1_500


# What the columns of the table of methods say.
_COLUMNS = {
    "bits per byte": "Of the source seen through the method, predicting the target's tokens: over all positions, "
    "what is lost or in the tail spread evenly, one without a transfer counted as uniform.",
    "ratio to the source's own": "1 is perfect: nothing was lost on the way.",
    "coverage": "Share of the target's positions that have a transfer.",
    "top-1": "Share of these at which the most probable token is the text's own.",
    "exact": "Mean probability that follows from the source's distribution alone.",
    "chained": "Mean probability resolved by the source's next distributions, along the text.",
    "approximate": "Mean probability mapped, or shared out, by a rule.",
    "tail": "Mean probability of what is not among the source's kept entries.",
    "lost": "Mean probability that has nowhere to go.",
}


def _summary(scene: Scene, methods: Sequence[str]) -> pd.DataFrame:
    rows = []
    for s, name in enumerate(scene.names):
        for method in methods:
            tally = Tally()
            tally.add(scene.carried(s, method), scene.own)
            row = tally.figures(method, scene.sources[s].bits_per_byte)
            rows.append(
                {
                    "source": name, "method": method, "bits per byte": row.bpb, "ratio to the source's own": row.ratio,
                    "coverage": 100 * row.coverage, "top-1": 100 * row.top1, **row.ledger,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _show_summary(scene: Scene, methods: Sequence[str]) -> None:
    own = scene.own.bits_per_byte
    columns = st.columns(len(scene.names) + 1)
    for column, name, theirs in zip(columns, scene.names, scene.sources, strict=False):
        own_bits = f"{theirs.bits_per_byte:.3f}"
        column.metric(f"{plain(name)}, bits per byte", own_bits, help="The source's own: the limit.")
    columns[-1].metric(f"target {plain(scene.own.model)}", f"{own:.3f}", help="The target's own bits per byte.")
    frame = _summary(scene, methods)
    config = {
        name: st.column_config.NumberColumn(format="%.1f %%" if name in ("coverage", "top-1") else "%.3f", help=about)
        for name, about in _COLUMNS.items()
    }
    st.dataframe(frame, hide_index=True, column_config=config)


def _offer(key: str, options: Sequence[Any]) -> None:
    """Begin with the first option, also where what was chosen is no longer among them."""
    if st.session_state.get(key) not in options:
        st.session_state.pop(key, None)
    begin_with(key, options[0])


def _pick_view(scene: Scene, methods: Sequence[str]) -> tuple[int, str, str]:
    columns = st.columns(3)
    shown = [c for c in _COLORS if len(scene.names) > 1 or c != "best source"]
    _offer("color", shown)
    _offer("strip_method", methods)
    _offer("strip_source", range(len(scene.names)))
    color = columns[0].selectbox(
        "Colour tokens by",
        shown,
        key="color",
        help="Each token is coloured by its prediction. Damage: nats that the method loses on the gold token against "
        "byte-exact (byte-exact itself: against the target's own). Best source: which one MinCE takes, token by token.",
    )
    method = columns[1].selectbox("through", methods, key="strip_method")
    source = columns[2].selectbox(
        "of", range(len(scene.names)), format_func=lambda n: scene.names[n], key="strip_source"
    )
    return source, method, color


def _damage(scene: Scene, source: int, method: str) -> NDArray[np.float64]:
    nll = scene.figures(source, method).nll
    return nll - (scene.own.nll if method == "byte-exact" else scene.figures(source, "byte-exact").nll)


def _colors(scene: Scene, source: int, method: str, color: str) -> tuple[list[str], list[dict[str, str]]]:
    found = scene.figures(source, method)
    if color == "what happened":
        return tokens.by_class(found.outcome, tokens.OUTCOME_COLORS)
    if color == "best source":
        gold = scene.own.encoding.ids[1:]
        carried = [scene.carried(s, method) for s in range(len(scene.names))]
        weights = fusion_weights(carried, "min_ce", cross_entropies("token", [], carried, gold))
        winner = np.where(weights.sum(axis=0) > 0, weights.argmax(axis=0), -1)
        # Half of it, so that the text can be read on a dark page too.
        shown = [f"{figures.SOURCE_COLORS[n % len(figures.SOURCE_COLORS)]}80" for n in range(len(scene.names))]
        return tokens.by_class(winner, dict(zip(scene.names, shown, strict=True)))
    values = {
        "gold token, nats": found.nll,
        "damage, nats": np.maximum(_damage(scene, source, method), 0.0),
        "KL from the target, nats": found.kl,
        "lost or tail": found.lost,
    }[color]
    return tokens.by_value(values, "" if color == "lost or tail" else "nats")


def _show_row(scene: Scene, source: int, method: str, color: str) -> None:
    encoding = scene.own.encoding
    colors, legend = _colors(scene, source, method, color)
    found, carried = scene.figures(source, method), scene.carried(source, method)
    titles = [
        f"{OUTCOMES[o]}; gold {nll:.2f} nats; {lost:.0%} lost or tail" + (f"; KL {kl:.2f}" if np.isfinite(kl) else "")
        for o, nll, lost, kl in zip(
            found.outcome.tolist(), found.nll.tolist(), carried.rest.tolist(), found.kl.tolist(), strict=True
        )
    ]
    page, pages = 0, -(-len(encoding) // _WINDOW)
    if pages > 1:
        selected, fresh = st.session_state.position, "distribution_part" not in st.session_state
        begin_with("distribution_part", 1)
        # The row follows the token that was chosen, unless the address says which part to show.
        if fresh or (st.session_state.get("part_of", selected) != selected and not gone_back()):
            st.session_state.distribution_part = selected // _WINDOW + 1
        st.session_state.part_of = selected
        st.session_state.distribution_part = min(st.session_state.distribution_part, pages)
        page = st.number_input(f"Part of the text (1 to {pages})", 1, pages, key="distribution_part") - 1
    low, high = page * _WINDOW, min(len(encoding), (page + 1) * _WINDOW)
    data = tokens.payload(encoding, colors, titles, legend, low, high)
    turn = f"{hash(scene.key) & 0xFFFFFF:x}"
    clicked = tokens.show(data, st.session_state.position, turn, key="tokens")
    if clicked is not None and st.session_state.get("clicked") != clicked:
        st.session_state.clicked = clicked
        _jump(clicked.token)
    st.caption("Click a token to see how it was predicted.")


def _show_damage(scene: Scene, source: int, method: str, methods: Sequence[str]) -> None:
    encoding = scene.own.encoding
    texts_of = [show_bytes(data, invisible=True) for data in encoding.canonical]
    damage = _damage(scene, source, method)
    found = scene.figures(source, method)
    frame = pd.DataFrame(
        {
            "token": np.arange(1, len(encoding)),
            "after": ["".join(texts_of[max(0, i - 5) : i + 1])[-20:] for i in range(len(encoding) - 1)],
            "gold": texts_of[1:],
            "damage": damage,
            "what happened": [OUTCOMES[o] for o in found.outcome.tolist()],
            "lost or tail": found.lost,
            **{name: scene.figures(source, name).nll for name in methods},
            "target's own": scene.own.nll,
        }
    ).sort_values(["damage", "token"], ascending=[False, True])
    st.subheader("Where it hurts")
    against = "the target's own prediction" if method == "byte-exact" else "byte-exact"
    st.caption(
        f"Tokens by damage: how many nats more the gold token costs through {method} than through {against}. "
        "The columns of methods are the gold token's nats. Select a row to look into it."
    )
    event = st.dataframe(
        frame.head(500),
        hide_index=True,
        height=300,
        on_select="rerun",
        selection_mode="single-row",
        # A table keeps its selected row when other rows come: it is a table of its own for each scene and method.
        key=f"damage_{hash((scene.key, source, method)) & 0xFFFFFFFF:x}",
        # Every name in full, and all columns of five methods on one page.
        column_config={
            "token": st.column_config.NumberColumn(width=60),
            "after": st.column_config.TextColumn(width=170),
            "gold": st.column_config.TextColumn(width=80),
            "what happened": st.column_config.TextColumn(width=115),
            **{
                c: st.column_config.NumberColumn(format="%.2f", width=max(56, 24 + 7 * len(c)))
                for c in frame.columns
                if frame[c].dtype.kind == "f"
            },
        },
    )
    picked = [int(frame["token"].iloc[row]) for row in event.selection.rows]
    new = picked != st.session_state.get("damaged")
    st.session_state.damaged = picked
    if picked and new:
        _jump(picked[0])
    st.download_button(
        "These positions as CSV",
        lambda: frame.to_csv(index=False).encode("utf-8", "replace"),
        "positions.csv",
        "text/csv",
        on_click="ignore",
        key="positions_csv",
    )


def _jump(token: int) -> NoReturn:
    """Show another token; the field that holds its number takes it over at the start of the next run."""
    st.session_state.jump = max(1, token)
    st.rerun()


def _own_panel(title: str, predictions: Predictions, row: int, gold: int | None) -> figures.Panel:
    top: TopK = predictions.top.rows(slice(row, row + 1))
    ids = np.arange(top.k, dtype=np.int32) if top.ids is None else top.ids[0]
    order = np.argsort(-top.logprobs[0], kind="stable")
    return figures.Panel(
        title, predictions.encoding.tokenizer, ids[order], top.probs[0][order], gold, float(top.tail[0])
    )


def _panel(title: str, tokenizer: Tokenizer, carried: Transfer, position: int, gold: int) -> figures.Panel:
    ids, probs = carried.at(position)
    if not carried.covered[position]:
        ids, probs = ids[:0], probs[:0]
    return figures.Panel(title, tokenizer, ids, probs, gold, float(carried.rest[position]))


def _show_position(scene: Scene, methods: Sequence[str], source: int, fused: Transfer, rule: str) -> None:
    encoding, theirs = scene.own.encoding, scene.sources[source]
    st.subheader("One prediction")
    token = st.number_input(
        f"Target token (1 to {len(encoding) - 1}; or click one above)", 1, len(encoding) - 1, key="position", step=1
    )
    position, gold = token - 1, int(encoding.ids[token])
    places = find_places(theirs, encoding)
    row, pending, end = int(places.row[position]), int(places.pending[position]), int(places.ends[position])
    read = int(encoding.ends[position])
    before = show_bytes(encoding.data[max(0, read - 60) : read], invisible=True)
    data = encoding.canonical[token] or encoding.data[encoding.starts[token] : encoding.ends[token]]
    st.markdown("What comes next? The text goes on with the token between ⟦ and ⟧, which is orange below.")
    st.code(f"{'…' if read > 60 else ''}{before}⟦{show_bytes(data, invisible=True)}⟧", language=None, wrap_lines=True)
    name = scene.names[source]
    panels = []
    if row >= 0:
        unread = show_bytes(places.text[pending:end], invisible=True)
        note = f"{name} itself" + (f", before “{unread[:12]}”" if unread else "")
        gold_source = theirs.encoding.ids[row] if row < len(theirs.encoding) else None
        panels.append(_own_panel(drawn(note), theirs, row, None if gold_source is None else int(gold_source)))
    carried = {method: scene.carried(source, method) for method in methods}
    panels += [_panel(method, encoding.tokenizer, one, position, gold) for method, one in carried.items()]
    if len(scene.names) > 1:
        panels.append(_panel(f"fused, {rule}", encoding.tokenizer, fused, position, gold))
    panels.append(_own_panel(drawn(f"target {scene.own.model}"), scene.own, token, gold))
    st.plotly_chart(figures.bars(panels), key="bars_of_position")
    left, right = st.columns([1.1, 1])
    with left:
        st.markdown("**Where the probability went**")
        st.plotly_chart(
            figures.ledgers(list(carried), np.stack([one.ledger[position] for one in carried.values()])), key="ledger"
        )
    with right:
        st.markdown("**Why**")
        st.markdown("\n".join(f"- `{method}` {reason(one, places, position)}" for method, one in carried.items()))
    if any(method.startswith("ot") for method in methods):
        st.markdown("**The transport plan**")
        if row >= 0 and pending == end:
            plan = transport_plan(theirs, scene.own, row, token)
            st.plotly_chart(
                figures.plan_heat_map(plan, theirs.encoding.tokenizer, encoding.tokenizer), key="transport_plan"
            )
        else:
            st.caption("There is none here: optimal transport needs a shared boundary.")


def _pick_fusion(scene: Scene, method: str) -> tuple[Transfer, str]:
    if len(scene.names) == 1:
        return scene.carried(0, method), "min_ce"
    st.subheader("All sources fused")
    columns = st.columns([1, 1, 2])
    begin_with("rule", "min_ce")
    begin_with("level", LEVELS[0])
    rule = columns[0].selectbox("Rule", list(RULES), key="rule")
    level = columns[1].selectbox(
        "Weights by the",
        LEVELS,
        key="level",
        disabled=not rule.endswith("_ce"),
        help="sequence: one weight for the text, by cross-entropy per byte. token: at each token, by the gold one.",
    )
    carried = [scene.carried(s, method) for s in range(len(scene.names))]
    ce = cross_entropies(level, [cross_entropy(one) for one in scene.sources], carried, scene.own.encoding.ids[1:])
    weights, fused = fusion_weights(carried, rule, ce), fuse(carried, rule, ce)
    *singles, together = [bits_per_byte(one, scene.own) for one in (*carried, fused)]
    shown = st.columns(len(scene.names) + 1)
    for column, name, bits, weight in zip(shown, scene.names, singles, weights.mean(axis=1), strict=False):
        about = f"Bits per byte; mean weight {weight:.2f}."
        column.metric(f"{plain(name)} through {method}", f"{bits:.3f}", help=about)
    gain = round(together - min(singles), 3)
    shown[-1].metric(
        "fused", f"{together:.3f}", f"{gain:+.3f} to the best source",
        delta_color="inverse" if gain else "off", delta_arrow="auto" if gain else "off",
    )  # fmt: skip
    if level == "token" and rule.endswith("_ce"):
        st.caption("The gold token itself chose these weights: a bound on what choosing can give, not a prediction.")
    st.plotly_chart(figures.weight_lines(scene.names, weights, st.session_state.position), key="weights")
    return fused, rule


def render() -> None:
    """The Distributions page."""
    st.caption(
        "A source model's next-token predictions in the target's tokens: what is kept, moved, shared out and lost."
    )
    begin_with("origin", _ORIGINS[0])
    origin = st.segmented_control("Predictions from", _ORIGINS, key="origin", required=True)
    try:
        scene = pick_models() if origin == _ORIGINS[0] else pick_shards()
        if min(len(one.encoding) for one in (scene.own, *scene.sources)) < 2:
            st.info("The text is too short: it needs at least two tokens on both sides.")
            st.stop()
        begin_with("methods", list(_DEFAULT_METHODS))
        methods = st.multiselect(
            "Methods",
            list(METHODS),
            key="methods",
            help="\n\n".join(f"**{name}**: {method.about}" for name, method in METHODS.items()),
        )
        if not methods:
            st.info("Choose at least one method.")
            st.stop()
        last = len(scene.own.encoding) - 1
        with st.spinner("Carrying predictions over …", show_time=True):
            for source in range(len(scene.names)):
                for method in methods:
                    scene.carried(source, method)
        wanted = st.session_state.pop("jump", st.session_state.get("position"))
        # Begin where the last method, by default the published one, does most harm.
        begin_with("position", 1 + int(np.nanargmax(_damage(scene, 0, methods[-1]))))
        wanted = st.session_state.position if wanted is None else wanted
        st.session_state.position = min(max(1, wanted), last)
        _show_summary(scene, methods)
        source, method, color = _pick_view(scene, methods)
        _show_row(scene, source, method, color)
        fused, rule = _pick_fusion(scene, method)
        _show_position(scene, methods, source, fused, rule)
        _show_damage(scene, source, method, methods)
    except FusionError as error:
        stop_with(error)
