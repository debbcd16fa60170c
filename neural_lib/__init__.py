"""The library behind train.py and predict.py; the README's tree says what each module is for."""
