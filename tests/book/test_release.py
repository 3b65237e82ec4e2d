"""What a release offers: the versions agree, and what its user does first works."""

import pytest
import release


def test_what_a_user_does_first_works() -> None:
    exec(release.TRY, {})


def test_only_the_tag_of_the_version_passes() -> None:
    version = release.versions()["pyproject.toml"]
    release.check_tag(f"v{version}")
    with pytest.raises(SystemExit, match=f"v{version} is expected"):
        release.check_tag(version)
