"""The charts of the pages, as they are sent to the browser."""

import pytest

from .conftest import figures, on_page


@pytest.mark.parametrize("ratio", [0.1, 0.3])
def test_the_plan_page_draws_the_ratio_of_its_slider(app_with_table, ratio):
    at = on_page(app_with_table, "plan")
    at.slider(key="ratio").set_value(ratio).run()
    assert not at.exception
    lines = [trace for trace in figures(at)["rates"].data if trace.type == "scatter"]
    assert list(lines[0].y) == [ratio, ratio]  # the target
