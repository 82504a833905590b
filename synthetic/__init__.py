"""The built-in data sets: `people`, the `scenes` they walk in, `pictures` of both, and `sets` of tracklets and
infrared.
"""
