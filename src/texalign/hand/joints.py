"""Names, order and parents of the hand's joints, as MANO has them."""

# The 16 joints of a pose, in MANO's order.
POSE_JOINT_NAMES = (
    "wrist",
    "index_1", "index_2", "index_3",
    "middle_1", "middle_2", "middle_3",
    "little_1", "little_2", "little_3",
    "ring_1", "ring_2", "ring_3",
    "thumb_1", "thumb_2", "thumb_3",
)  # fmt: skip
PARENTS = (-1, 0, 1, 2, 0, 4, 5, 0, 7, 8, 0, 10, 11, 0, 13, 14)
FINGERS = ("thumb", "index", "middle", "ring", "little")
# Vertices at the fingertips, thumb to little finger: the ids smplx and HaMeR use.
TIP_VERTICES = (744, 320, 443, 554, 671)
# The 21 joints that come out: wrist, then every finger from its base to its tip.
JOINT_NAMES = ("wrist", *(f"{finger}_{part}" for finger in FINGERS for part in ("1", "2", "3", "tip")))
# Where each of the 21 is found among the 16 pose joints followed by the 5 tips.
JOINT_ORDER = (0, 13, 14, 15, 16, 1, 2, 3, 17, 4, 5, 6, 18, 10, 11, 12, 19, 7, 8, 9, 20)
