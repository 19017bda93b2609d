"""Which rank do the data bear out?"""

from tensorchain.selection.fits import RankRow
from tensorchain.selection.progress import StudyStep
from tensorchain.selection.ranks import rank_study
from tensorchain.selection.study import RankStudy

__all__ = ["RankRow", "RankStudy", "StudyStep", "rank_study"]
