"""Sizes at which the rings of the searches on tensor cores wrap, on a GPU of 132 multiprocessors.

What a block gets there by the host's plan, to which test_nearest_code_plan.py holds this:

- 70000 x 1100 x 8. wgmma: 274 items, 2 or 3 for a block, of 9 tiles with a stage each: 18 or 27
  stages through a ring of 8; the rows of its items go through 2 slots. mma.sync: 547 blocks, 9
  stages each through a ring of 3.
- 3000 x 3000 x 256. wgmma: 96 items, one for a block, of 3 tiles with 4 stages each: 12 stages
  through a ring of 5. mma.sync: 192 blocks, 24 stages each through 3.
- 35000 x 700 x 256. wgmma: 274 items, 2 or 3 for a block, of 3 tiles with 4 stages each: 24 or 36
  stages through a ring of 5; the rows of its items go through 1 slot. mma.sync: 548 blocks, 24
  stages each through 3.

So slots are used again and parities flip, twice and more in the first and the last, blocks have
items behind their first, and rows are fetched while others are searched (2 slots) or after (1).
"""

# N, K, D; items of wgmma, least stages of one of its blocks; blocks of mma.sync, stages of each.
RING_PLANS = {
    (70_000, 1100, 8): (274, 18, 547, 9),
    (3000, 3000, 256): (96, 12, 192, 24),
    (35_000, 700, 256): (274, 24, 548, 24),
}
RING_CASES = list(RING_PLANS)
