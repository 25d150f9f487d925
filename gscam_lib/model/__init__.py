"""A CLIP, whoever made it: weights, towers, photo to input and back, prompts.

Knows open_clip and its layers; knows nothing of traces, methods and what maps are for.
"""
