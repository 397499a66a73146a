/* SPDX-License-Identifier: MIT */
/* musl: yes */
/* avx: a sum of products by AVX2 and FMA, and the same without. */
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#define N 65536

__attribute__((target("avx2,fma"))) static double dot_avx(
    const double *a, const double *b)
{
	__m256d sum = _mm256_setzero_pd();
	double part[4];

	for (int i = 0; i < N; i += 4)
		sum = _mm256_fmadd_pd(
		    _mm256_loadu_pd(a + i), _mm256_loadu_pd(b + i), sum);
	_mm256_storeu_pd(part, sum);
	return part[0] + part[1] + part[2] + part[3];
}

static double dot(const double *a, const double *b)
{
	double sum = 0;

	for (int i = 0; i < N; i++)
		sum += a[i] * b[i];
	return sum;
}

int main(void)
{
	static double a[N];
	static double b[N];
	double x;
	double y;

	if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
		puts("avx: skipped, this CPU has no AVX2 and FMA");
		return 0;
	}
	/* Small integers: both ways are exact. */
	for (int i = 0; i < N; i++) {
		a[i] = i % 1000;
		b[i] = i * 7 % 512;
	}
	for (int round = 0; round < 100; round++) {
		x = dot_avx(a, b);
		y = dot(a, b);
		if (fabs(x - y) > 0) {
			printf("avx: %f is not %f\n", x, y);
			return 1;
		}
	}
	printf("avx: %.0f both ways\n", x);
	return 0;
}
