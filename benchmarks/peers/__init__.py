"""Other implementations of Retro, each in a virtual environment and a process of its own, beside retrolit.

`sizes` says what all of them build; `retrolit_models`, `retro_pytorch`, `megatron_core` and `gpt2` build it; `worker`
is the process that measures one of them, `environments` makes what it runs in, `rounds` has several take turns.
"""
