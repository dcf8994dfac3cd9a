// What check_avx512.cpp runs. Each prints what differs and returns how much does.
#pragma once

int check_intrinsics();
int check_search();
int check_packed_linear();
int check_soft_assign();
int check_codebook_stats();
