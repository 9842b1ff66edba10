/* msl_nvptx_math.h - exp, log, sin and cos for an NVIDIA GPU without a library: computed in float64 and rounded once, so that
 * results can be compared with ref. */
#pragma once
#pragma OPENCL EXTENSION cl_khr_fp64 : enable

inline double msl_d_exp(double x)
{
	if (x > 700.0)
		return __builtin_inf();
	if (x < -700.0)
		return 0.0;
	double n = __builtin_rint(x * 1.4426950408889634), r = x - n * 0.6931471805599453, s = 1.0;

	for (int i = 14; i > 0; i--)
		s = 1.0 + s * r / (double)i;
	long bits = (long)n + 1023 << 52;
	double scale;

	__builtin_memcpy(&scale, &bits, 8);
	return s * scale;
}

inline double msl_d_log(double x)
{
	long bits;
	double m;

	__builtin_memcpy(&bits, &x, 8);
	long e = (bits >> 52) - 1023;
	bits = (bits & 0xfffffffffffffl) | 1023l << 52;
	__builtin_memcpy(&m, &bits, 8);
	if (m > 1.4142135623730951) {
		m *= 0.5;
		e++;
	}
	double s = (m - 1.0) / (m + 1.0), q = s * s, sum = 0.0;

	for (int i = 25; i > 0; i -= 2)
		sum = sum * q + 1.0 / (double)i;
	return 2.0 * s * sum + (double)e * 0.6931471805599453;
}

/* sin(x + quarter * pi / 2) */
inline double msl_d_sin(double x, int quarter)
{
	double n = __builtin_rint(x * 0.6366197723675814), r = x - n * 1.5707963267948966 - n * 6.123233995736766e-17, s = 0.0;
	long k = (long)n + quarter;
	double q = r * r;

	if (k & 1) {
		for (int i = 20; i >= 2; i -= 2)
			s = (1.0 + s) * -q / (double)(i * (i - 1));
		s = 1.0 + s;
	} else {
		for (int i = 21; i >= 3; i -= 2)
			s = (1.0 + s) * -q / (double)(i * (i - 1));
		s = r * (1.0 + s);
	}
	return k & 2 ? -s : s;
}

inline float msl_m_expf(float x) { return (float)msl_d_exp((double)x); }
inline float msl_m_exp2f(float x) { return (float)msl_d_exp((double)x * 0.6931471805599453); }
inline float msl_m_logf(float x) { return (float)msl_d_log((double)x); }
inline float msl_m_log2f(float x) { return (float)(msl_d_log((double)x) * 1.4426950408889634); }
inline float msl_m_sinf(float x) { return (float)msl_d_sin((double)x, 0); }
inline float msl_m_cosf(float x) { return (float)msl_d_sin((double)x, 1); }
inline float msl_m_powf(float x, float y) { return (float)msl_d_exp((double)y * msl_d_log((double)x)); }
inline float msl_m_tanhf(float x) { return (float)(1.0 - 2.0 / (msl_d_exp(2.0 * (double)x) + 1.0)); }
inline float msl_m_ldexpf(float x, int e) { return x * (float)msl_d_exp((double)e * 0.6931471805599453); }

