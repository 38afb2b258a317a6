"""Wires runs: providers, functions, limits, store, observers and the engine."""

from agentdag.session.agent import Agent
from agentdag.session.batch import (
    BatchResult,
    BatchSession,
    BatchSpec,
    BatchTakenUp,
    take_up_batch,
    unfinished,
)
from agentdag.session.options import Options, compile_pipeline, costs_of, foreseen, lasting, load, planned
from agentdag.session.run import (
    RunResult,
    Session,
    TakenUp,
    aresume,
    arun,
    keeper_of,
    kept_inputs,
    resume,
    run,
    run_loop,
    take_up,
)

__all__ = [
    "Agent",
    "BatchResult",
    "BatchSession",
    "BatchSpec",
    "BatchTakenUp",
    "Options",
    "RunResult",
    "Session",
    "TakenUp",
    "aresume",
    "arun",
    "compile_pipeline",
    "costs_of",
    "foreseen",
    "keeper_of",
    "kept_inputs",
    "lasting",
    "load",
    "planned",
    "resume",
    "run",
    "run_loop",
    "take_up",
    "take_up_batch",
    "unfinished",
]
