/* SPDX-License-Identifier: Apache-2.0
 * exit_tune_none.c - exit_tune.h in a build without OpenBLAS: it says so.
 */
#include "tools/exit_tune.h"

int
exit_tune_check(struct err *err)
{
    return err_set(err, CE_EUNSUPPORTED,
                   "this build has no OpenBLAS, which training needs; on Debian: apt "
                   "install libopenblas-dev, then configure and make again");
}

int
exit_tune_run(struct exit_adapter *out, size_t *steps_done, const struct model *m,
              const struct exit_rows *rows, const struct exit_tune_params *p,
              struct err *err)
{
    (void)out;
    (void)m;
    (void)rows;
    (void)p;
    *steps_done = 0;
    return exit_tune_check(err);
}

void
exit_adapter_free(struct exit_adapter *a)
{
    *a = (struct exit_adapter){ 0 };
}
