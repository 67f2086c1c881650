"""A bit-budget planner: which method and how many bits each layer gets, so that a model fits a number of bytes.

candidates, sizes         what may be done to a layer, and the bytes that it then takes
apply, curves             what that costs in output error, measured
terms, relaxation, knapsack, plan
                          the best choice within a budget, with a bound on how far it is from any other
frontier, attribution     what other budgets and other choices would buy
figures                   pictures of both
"""
