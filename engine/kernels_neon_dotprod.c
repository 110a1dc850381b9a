/* SPDX-License-Identifier: Apache-2.0
 * kernels_neon_dotprod.c - products of quantised weights on ARMv8.2 with dot products
 * (Cortex-A55, A75 and later, Neoverse N1).
 */
#include "engine/kernels_neon_dotprod.h"
#include "engine/kernels_neon_quantised.h"

DEFINE_MATMULS(tile_all)

void
kernels_neon_dotprod_install(struct kernels *k)
{
    k->name = "neon-dotprod";
    k->matmul[PACKED_Q4_0] = matmul_q4_0;
    k->matmul[PACKED_Q4_1] = matmul_q4_1;
    k->matmul[PACKED_Q8_0] = matmul_q8_0;
}
