"""Help pages of verbs with many options: in sections, each option where one looks for it."""

from __future__ import annotations

import click

_OWN = "Options"
_SECTIONS = {
    "What goes into the references": (
        "group",
        "include",
        "exclude",
        "inline_threshold",
        "inline_limit",
        "follow_external",
        "links",
        "phony_dimensions",
        "public_url",
    ),
    "How files are read": ("storage_options", "jobs", "isolate", "timeout"),
    "How references are written": (
        "format",
        "output_options",
        "zarr_format",
        "record_size",
        "branch",
        "message",
        "shard_bytes",
        "portable",
    ),
    "What is shown": ("as_json", "html", "quiet", "debug"),
}
_SECTION_OF = {name: title for title, names in _SECTIONS.items() for name in names}


class Sectioned(click.Command):
    """A command whose help page lists options that several verbs have in sections, after its own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in (_OWN, *_SECTIONS)}
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and not isinstance(option, click.Argument):
                sections[_SECTION_OF.get(option.name or "", _OWN)].append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
