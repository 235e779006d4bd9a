"""How good forecasts are: metrics, baselines, replay of recordings, scoring of live topics, film and report.

`replay` runs a recording through the very `runtime.Predictor` that the node uses; `ForecastScorer` is the part that
scores, and takes events from anywhere.
"""
