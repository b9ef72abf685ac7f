"""Proof on rows, without a server and without a JVM.

`fold` says what the features of a key are after some events, by the plain definition of every aggregate.
`assert_lawful` proves that the merge of batch and stream gives the same, whatever the order in which these
events come, however often, and wherever batches are cut. `check_example` runs an example of a declaration.
"""

from anabranch.testing.examples import Difference, check_example
from anabranch.testing.folding import fold
from anabranch.testing.proof import BrokenLawError, assert_lawful

__all__ = ["BrokenLawError", "Difference", "assert_lawful", "check_example", "fold"]
