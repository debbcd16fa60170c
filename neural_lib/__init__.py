"""The library of train.py and predict.py; README.md has a line on each module."""
