"""What the paper says that its ideas do, measured: disentanglement, translation, the match of prior and posterior,
smoothness. Each file is one mechanism, of pure functions; measure.py takes them of a trained variant.
"""
