"""Five training steps as facts: what a device computes, what it sends, and where each number is from.

All sizes and times of computation are read: those of the C++ proxies of one of the authors
(github.com/Shigangli/DNN-cpp-proxies), sizes in 4-byte numbers, times those of an A100 where a proxy says so (ResNet-152,
CosmoFlow). That these proxies are what the published comparison ran is our inference: their steps fit what is recalled
of it from memory (31.8 ms of computation for GPT-3, 49.9 ms with experts), and groups of 96 x 16 devices fit its machines
of about 1,536. Numbers of devices are ours: 1,024 and 1,536. Derived, with W bytes of parameters, a mini-batch of M
samples and A activation bytes a sample at a cut:

    gradients       W / (P O) over D ranks          ResNet: W = 240.8 MB, P = O = 1
    operator        A M / D, 2 + 2 times a layer    GPT-3: A = 2,048 tokens x 12,288 x 4 B = 100.7 MB, M / D = 1
    pipeline        A M / (D O) a neighbour         the proxy sends A M / D from each of the O ranks: O times as much
    experts         2 all-to-alls each way of A     GPT-3 MoE: 16 experts
"""

from __future__ import annotations

from dataclasses import dataclass

NUMBER_BYTES = 4
SOURCE = "sizes and computation read in github.com/Shigangli/DNN-cpp-proxies; devices are our choice"


@dataclass(frozen=True, kw_only=True)
class ResNetFacts:
    """ResNet-152, data parallel: D = devices. 128 samples a device. Times in microseconds, sizes in numbers."""

    devices: int = 1024
    forward_us: int = 119_000
    backward_bucket_us: int = 23_800
    buckets: tuple[int, ...] = (
        6_511_592,
        6_567_936,
        5_905_920,
        6_113_280,
        6_176_256,
        6_112_768,
        6_176_256,
        6_112_768,
        5_321_216,
        5_194_816,
    )


@dataclass(frozen=True, kw_only=True)
class CosmoFlowFacts:
    """CosmoFlow, D x O = devices / 4 x 4: 3D volumes are cut into 2 x 2 columns. 8 samples for every four devices.

    Convolutions exchange halos with two neighbours before a layer forward, after it backward; dense layers gather
    activations and reduce-scatter gradients of the other cut.
    """

    devices: int = 1024
    shards: int = 4
    convolutions: int = 5
    forward_us: tuple[int, ...] = (6_567, 13_135, 6_567, 3_283, 1_641, 5, 3, 1)
    backward_us: tuple[int, ...] = (2, 6, 10, 3_283, 6_567, 13_135, 26_270, 13_135)
    forward_halos: tuple[int, ...] = (2_097_152, 1_048_576, 524_288, 262_144)
    backward_halos: tuple[int, ...] = (131_072, 262_144, 524_288, 1_048_576)
    gathered: tuple[int, ...] = (65_536, 256, 128)
    scattered: tuple[int, ...] = (128, 256, 65_536)
    dense_gradient: int = 1_050_737
    gradients: tuple[int, ...] = (3_539_456, 884_992, 221_312, 55_360, 3_488)


@dataclass(frozen=True, kw_only=True)
class PipelineFacts:
    """One step of a pipeline of GPT-3 layers, 96 x O ranks a pipeline, one layer a stage, one sequence of 2,048 tokens.

    Even stages compute forward, odd stages backward; each then runs two collectives of ``activation`` over its O ranks
    and exchanges the activation with the other stage of its pair.
    """

    devices: int = 1536
    stages: int = 96
    group: int
    collective: str
    forward_us: int
    backward_us: int
    activation: int = 25_165_824


GPT3 = PipelineFacts(group=4, collective="all_reduce", forward_us=15_915, backward_us=31_830)
# Attention runs on every rank, the feed-forward layers are spread over 16 experts.
GPT3_MOE = PipelineFacts(
    group=16, collective="all_to_all", forward_us=22_367 + 41_293 // 16, backward_us=44_734 + 82_586 // 16
)


@dataclass(frozen=True, kw_only=True)
class DlrmFacts:
    """DLRM: embedding tables are spread over all devices, the perceptrons are data parallel; 2,048 samples in all."""

    devices: int = 1024
    embedding_us: int = 95
    bottom_us: int = 341
    interaction_us: int = 209
    top_us: int = 455
    exchanged: int = 262_144
    top_gradient: int = 728_065
    bottom_gradient: int = 49_536
