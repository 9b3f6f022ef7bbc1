"""Every page without a serious finding of axe-core, light and dark, with an experiment that is measured, planned and cut."""

import pytest
from axe_playwright_python.sync_playwright import Axe

from tests.browser.studio import SCREENS, Studio
from tests.browser.test_compare import prune

NAME = "accessible"
# What Streamlit draws by itself, and no theme reaches: colours of code, and its scrolling box.
NOT_OURS = {"exclude": [[".stCode"]]}


@pytest.fixture(scope="module")
def experiment(server) -> str:
    prune(server.output_root, NAME, 0.1)
    return NAME


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_has_a_serious_finding(server, new_context, experiment, scheme):
    studio = Studio(new_context(color_scheme=scheme).new_page(), server.url, server.output_root)
    for screen in SCREENS:
        studio.open(screen, experiment=experiment)
        assert findings(studio) == [], screen
    studio.page.close()


def findings(studio: Studio) -> list[str]:
    """Serious and critical ones: the rule, where, and what was found there."""
    violations = Axe().run(studio.page, NOT_OURS).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:200]} {[check.get('data') for check in node['any']]}"
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]
