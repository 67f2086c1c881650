"""Mend what keeps htsim's programs of the baselines from running, or from being what they are named for.

    git clone https://github.com/ultraethernet/uet-htsim; python -m tests.benchmarks.htsim_mends uet-htsim/htsim/sim

Found in the commit of 2025-08-12, and by running them:

* `-topo` of NDP, EQDS and RoCE forgets the sizes of queues that the file leaves to `-q`, and stops.
* Swift builds its tree with the number of tiers for that of nodes and asks it for something that it does not have.
* DCQCN: every timer starts a further chain of events that send, so that a run takes ever more of them; all flows share
  one estimate of congestion, which decays with every packet instead of every 55 us; its counter of 10 MB counts packets
  (it is left out here: flows of 2 MiB do not reach it).
* HPCC: the share of a round trip in the moving average of the load is a quotient of whole numbers, 0 until it is 1; what
  ports said is kept from the first acknowledgement on and never again; windows count from the last one instead of the
  reference window, which together lets them grow by a packet an acknowledgement; and they have no largest.

The round trip without load is a constant of HPCC; here it becomes that of 128 hosts in three tiers at 100 Gb/s.
"""

from __future__ import annotations

import re
from pathlib import Path

import click

#: file, pattern (of which exactly so many places are changed), replacement
Mend = tuple[str, str, int, str]
TREES: list[Mend] = [
    (f"datacenter/main_{name}.cpp", r"(topo_cfg = .*::load\(.*\);)", 1, r"\1 topo_cfg->set_queue_sizes(queuesize);")
    for name in ("ndp", "eqds", "roce")
]
SWIFT: list[Mend] = [
    ("datacenter/main_swift.cpp", r"(?m)^( +)(RANDOM, SWIFT_SCHEDULER\);)", 1, r"\1timeFromUs(1u), 0, \2"),
    ("datacenter/main_swift.cpp", r"top->no_of_nodes\(\)", 1, "topo_cfg->no_of_nodes()"),
]
# A clock beside the chain of events that sends; it takes over what was done with every packet.
CLOCK = r"""struct RateClock : EventSource {
    using EventSource::EventSource;
    std::function<void()> due;
    void doNextEvent() override { due(); }
    void after(simtime_picosec span) { eventlist().sourceIsPendingRel(*this, span); }
};

\1"""
ON_CLOCK = r"""\1 RoceSrc::doNextEvent(); }

void DCQCNSrc::onClock() {
    simtime_picosec now = eventlist().now();
    if (_done || now - _last_cc_update < _cc_update_period) return;  // a cut has started it anew
    _last_cc_update = now;
    _alpha *= 1 - _g;
    _T++;
    increaseRate();
    if (_state_send == READY && now - _time_last_sent >= _packet_spacing && _highest_sent * _mss < _flow_size) {
        send_packet();
        _time_last_sent = now;
    }
    _clock.after(_cc_update_period);
}
"""
AFTER_CUT = r"(_last_alpha_update = eventlist\(\)\.now\(\);\s+)eventlist\(\)\.sourceIsPendingRel\(\*this, "
DCQCN: list[Mend] = [
    ("dcqcn.cpp", r"double DCQCNSrc::_alpha = 1;", 1, ""),
    ("dcqcn.h", r"static double _alpha, _g;", 1, "double _alpha = 1; static double _g;"),
    ("dcqcn.h", r"#include <list>", 1, "#include <functional>\n#include <list>"),
    ("dcqcn.h", r"(class DCQCNSrc : )", 1, CLOCK),
    ("dcqcn.h", r"(virtual void increaseRate\(\);)", 1, r"\1 void onClock(); RateClock _clock;"),
    ("dcqcn.cpp", r"(: RoceSrc\(.*\))", 1, r'\1, _clock(eventlist, "clock")'),
    ("dcqcn.cpp", r"( +_cnps_received = 0;)", 1, r"\1 _clock.due = [this] { onClock(); };"),
    ("dcqcn.cpp", r"(?s)(void DCQCNSrc::doNextEvent\(\)\{).*?\n\}\n", 1, ON_CLOCK),
    ("dcqcn.cpp", AFTER_CUT, 1, r"\1_clock.after("),
    ("dcqcn.cpp", r"(?m)^ *cout << .*\n", 3, ""),
]
HPCC: list[Mend] = [
    ("hpcc.cpp", r"timeFromUs\(12\.0\)", 1, "timeFromUs(14.02368)"),
    ("hpcc.cpp", r"tau/_T", 2, "double(tau) / _T"),
    ("hpcc.cpp", r"(?m)^( +_U = \(1 - .*;)", 1, r"\1 std::copy_n(ack._int_info, _link_count, _link_info);"),
    ("hpcc.cpp", r"_U = _eta;", 1, "_U = 1.0; _Wc = _most = _cwnd; _incStage = 0;"),
    ("hpcc.h", r"_flightsize, _Wc;", 1, "_flightsize, _Wc, _most;"),
    ("hpcc.cpp", r"W = _cwnd (.*);", 2, r"W = std::min<HPCCPacket::seq_t>(_Wc \1, _most);"),
    ("hpcc.cpp", r"_cwnd = W;", 2, "_Wc = W;"),
    ("hpcc.cpp", r'(?m)^ *cout << "CWND.*\n', 2, ""),
]


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(source: Path) -> None:
    """Change the files in SOURCE, the folder `htsim/sim` of a clone; nothing is written where a place is not found."""
    changed: dict[Path, str] = {}
    for name, pattern, count, replacement in [*TREES, *SWIFT, *DCQCN, *HPCC]:
        path = source / name
        if not path.exists():
            raise click.ClickException(f"{path} is not there; SOURCE is the folder `htsim/sim` of a clone")
        text, found = re.subn(pattern, replacement, changed.get(path) or path.read_text())
        if found != count:
            raise click.ClickException(
                f"{path}: `{pattern}` is there {found} times, not {count}; is it mended already?"
            )
        changed[path] = text
    for path, text in changed.items():
        path.write_text(text)
        click.echo(f"mended {path}")


if __name__ == "__main__":
    main()
