"""The winner leaves: a confirmed candidate as a folder that runs anywhere, and a run's trials as tables and curves.

In goes a run's store, read only; out come files. `python -m nas.export RUN CANDIDATE` writes a folder with

    network.py           the candidate's own source at the numbers that were confirmed, with what lies around it
    weights.safetensors  of one fresh seed, averaged as they were when the test split was scored
    score.py             the space's score
    evaluate.py          loads the network, scores it on the test split and compares with the leaderboard
    test.safetensors     the test split, unless it shall stay here
    config.json README.md requirements.txt

which imports jax, flax and numpy alone. The folder is run before it is called done: its score is the leaderboard's to
1e-6, or the command says so and fails. `--trials` and `--tensorboard` write what all trials measured. Nothing is
uploaded, and no other framework is written for.
"""
