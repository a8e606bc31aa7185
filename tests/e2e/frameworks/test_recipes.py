"""The recipes for LangChain and LlamaIndex, as their pages have them."""

import pytest
from test_pages import check_page


@pytest.mark.parametrize("page", ["docs/recipes/langchain.md", "docs/recipes/llama-index.md"])
def test_every_command_runs(server, page, tmp_path):
    check_page(server, page, tmp_path)
