"""The built-in data sets: `people`, the `scenes` they walk in, `pictures` of both, `sets` of tracklets and infrared;
`kind`: how all three are planned, drawn by several processes, and kept in the cache.
"""
