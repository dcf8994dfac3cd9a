// Stands in for <cpuid.h>: the program is a CPU that has everything, on a system that permits it.
#pragma once

#include_next <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define __get_cpuid(leaf, a, b, c, d) (*(a) = *(b) = *(c) = *(d) = ~0u, 1)
#define __get_cpuid_count(leaf, subleaf, a, b, c, d) (*(a) = *(b) = *(c) = *(d) = ~0u, 1)
#define syscall(...) 0L
