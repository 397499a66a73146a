/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>

#include "tools/cli/cli.h"

static void line(const char *what, const json_t *r, const char *key)
{
	char buf[16];

	(void)printf(
	    "%-10s %8s\n", what, fmt_size(json_u64(r, key), buf, sizeof(buf)));
}

void out_pinned(const json_t *r)
{
	const json_t *p;
	size_t i;

	json_array_foreach(json_object_get(r, "pinned_by"), i, p)
	{
		char vms[16];
		char clients[16];

		(void)printf("  pinned by uid %" PRIu64
			     ": VMs %s, clients %s\n",
		    json_u64(p, "uid"),
		    fmt_size(json_u64(p, "vm_bytes"), vms, sizeof(vms)),
		    fmt_size(
			json_u64(p, "client_bytes"), clients, sizeof(clients)));
	}
}

static void print(const json_t *r)
{
	(void)printf("VMs        %8" PRIu64 "\nsnapshots  %8" PRIu64
		     "\nlayers     %8" PRIu64 " in %" PRIu64 " files\n",
	    json_u64(r, "vms"), json_u64(r, "snapshots"), json_u64(r, "layers"),
	    json_u64(r, "files"));
	line("held", r, "layer_bytes");
	line("  live", r, "live_bytes");
	line("  dead", r, "dead_bytes");
	line("  pinned", r, "pinned_bytes");
	out_pinned(r);
	line("nodes", r, "node_bytes");
	line("tables", r, "table_bytes");
	line("records", r, "record_bytes");
	line("private", r, "private_bytes");
	line("mapped", r, "mapped_bytes");
	line("moved", r, "moved_bytes");
	line("reserved", r, "reserved_bytes");
	line("bank", r, "bank_bytes");
}

int verb_stats(struct cli *c, const struct args *a)
{
	return cli_show(c,
	    cli_call(c, "service.stats", json_pack("{s:b}", "exact", a->exact)),
	    print);
}
