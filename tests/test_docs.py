"""README.md and docs/: their links lead somewhere, and what they name is there."""

import glob
import importlib
import os
import re

import pytest
from conftest import ROOT

PAGES = [
    'README.md',
    *sorted(os.path.relpath(path, ROOT) for path in glob.glob(os.path.join(ROOT, 'docs', '*.md'))),
]


def text_of(page):
    with open(os.path.join(ROOT, page)) as file:
        return file.read()


def anchors(page):
    headings = re.findall(r'^#+ (.+)$', re.sub(r'```.*?```', '', text_of(page), flags=re.S), re.M)
    return {re.sub(r'[^\w -]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    links = re.findall(r'\]\(([^)\s]+)\)', text_of(page))
    for link in links:
        if not re.match('https?://', link):
            path, _, anchor = link.partition('#')
            target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            assert os.path.exists(os.path.join(ROOT, target)), link
            assert not anchor or anchor in anchors(target), link
    assert links or page != 'README.md'


def test_every_page_is_reached_from_the_readme():
    assert set(PAGES[1:]) == {
        link for link in re.findall(r'\]\((docs/\w[\w-]*\.md)\)', text_of('README.md'))
    }


@pytest.mark.parametrize('page', PAGES)
def test_commands_name_scripts_and_targets_that_are_there(page):
    text = text_of(page)
    for script in re.findall(r'\.venv/bin/python (?:tests/)?(\w+\.py)', text):
        assert glob.glob(os.path.join(ROOT, script)) + glob.glob(
            os.path.join(ROOT, 'tests', script)
        ), script
    for module in re.findall(r'-m ((?:beyond|iris)\.\w+)', text):
        assert importlib.util.find_spec(module), module
    makefile = text_of('Makefile')
    for target in re.findall(r'^ +make ([\w-]+)', text, re.M):
        assert re.search(rf'^{target}:', makefile, re.M), target
    for extra in re.findall(r"'\.\[(\w+)\]'", text):
        assert re.search(rf'^{extra} = \[', text_of('pyproject.toml'), re.M), extra


def test_no_placeholder_is_left():
    assert not [page for page in PAGES if re.search(r'^@[A-Z_]+@$', text_of(page), re.M)]
