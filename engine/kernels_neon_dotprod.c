/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_dotprod.c - products of quantised weights on ARMv8.2 with dot products
 * (Cortex-A55, A75 and later, Neoverse N1).
 */
#include "engine/kernels_neon_dotprod.h"

#define ROW_BLOCKS(BLOCK, f) BLOCK(f, 4) BLOCK(f, 3) BLOCK(f, 2) BLOCK(f, 1)
#include "engine/kernels_neon_quantised.h"

#define tile_rows tile_few_rows /* there are no larger blocks */

DEFINE_MATMULS

void
kernels_neon_dotprod_install(struct kernels *k)
{
    k->name = "neon-dotprod";
    install_quantised(k);
}
