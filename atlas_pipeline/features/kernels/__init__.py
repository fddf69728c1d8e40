"""Compiled loops over bars: float64 inside, one block of rows after another, each window summed afresh.

A kernel gets the rows of a block and the rows before it, and the memory of its recurrences. Which rows form a block
changes no bit of any value: a value is a function of the memory and of a fixed tree of additions over its window. So a
block may be a whole series, a month, or the one bar that has just arrived, and the three are the same code.

``fastmath`` stays off, since it assumes away NaN and the order of additions. Loops run over slices rather than over
computed indices, which keeps the compiler from guarding against negative ones and lets it vectorize. Machine code is
kept on disk. Nothing here knows frames, symbols or calendars; missing bars are cut out before.
"""
