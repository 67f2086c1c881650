"""Random flows between sixteen hosts, for laws that hold whatever the load."""

from hypothesis import strategies as st

from orchestrator_network import workloads

#: (source, steps from it to the target, bytes, start in ps).
FLOW_ROWS = st.lists(
    st.tuples(st.integers(0, 15), st.integers(1, 15), st.integers(1, 120_000), st.integers(0, 20_000_000)),
    min_size=1,
    max_size=24,
)


def flows_of(rows):
    return workloads.flows((src, (src + step) % 16, size, start) for src, step, size, start in rows)
