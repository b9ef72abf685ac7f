"""Addresses of S3, without a server; `make test-s3` has the rest."""

import pytest

from anabranch.errors import MisuseError
from anabranch.stores.files.objects import Objects, is_object


@pytest.mark.parametrize("place", ["s3a://", "s3a:///path", "s3://bucket/path", "bucket/path"])
def test_an_address_without_scheme_or_bucket_is_misuse(place: str) -> None:
    with pytest.raises(MisuseError, match=r"is no address in S3: write s3a://bucket/path"):
        Objects(place)


def test_s3_is_told_from_other_places() -> None:
    places = ["s3a://b/x", "hdfs://n:1/x", "/s3a/x", "s3a"]
    assert [is_object(place) for place in places] == [True, False, False, False]
