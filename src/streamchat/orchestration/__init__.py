"""The parts of `streamchat.orchestrator`: a run's context and options, its model steps, its tool calls."""
