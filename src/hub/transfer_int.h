/* transfer_int.h - moving the missing bytes of a partial file over several connections. */
#ifndef DS4_HUB_TRANSFER_INT_H
#define DS4_HUB_TRANSFER_INT_H

#include "base/status.h"
#include "hub/fetch.h"
#include "hub/hub.h"
#include "hub/keeper_int.h"
#include "hub/part_int.h"

/* Returns OK when every byte is on disk.  Counts into report; file->location is renewed when it expires. */
enum status transfer_run(struct part *part, struct keeper *keeper, struct hub_file *file, const struct hub_access *a,
			 const struct fetch_options *o, struct fetch_report *report, struct err *err);

#endif
