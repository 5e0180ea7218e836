"""Judge: who climbs to the next rung, with which numbers, and how much of it was the proposer's doing.

In go the scores of trials at the rungs; out come promotions, drawn hyperparameters and estimates. `rungs.py` is the
arithmetic of successive halving, `tuner.py` the numbers (the only module that imports Optuna), `lift.py` what an arm is
worth against the control arm, `belief.py` what fresh seeds allow to be claimed. Nothing here trains or stores; scores
on the test split reach `belief.py` alone.
"""
