/* signals.c - Ctrl-C, a resized window, a return from Ctrl-Z, a request to end: flags.
 *
 * Handlers only set a flag; whoever waits or works looks at it (line.c while waiting for keys, generate.c between
 * tokens, the engine between steps).  No SA_RESTART: a read that waits for a key must come back. */
#include <signal.h>
#include <string.h>

#include "cli/cli.h"

static volatile sig_atomic_t interrupted, resized, continued, ending;

static void on_signal(int sig)
{
	if (sig == SIGINT)
		interrupted = 1;
	else if (sig == SIGHUP || sig == SIGTERM)
		ending = interrupted = 1;
	else if (sig == SIGWINCH)
		resized = 1;
	else
		continued = 1;
}

static void handle(int sig, int flags)
{
	struct sigaction a;

	memset(&a, 0, sizeof a);
	a.sa_handler = on_signal;
	a.sa_flags = flags;
	sigemptyset(&a.sa_mask);
	sigaction(sig, &a, NULL);
}

void cli_signals_install(void)
{
	handle(SIGINT, 0);
	handle(SIGWINCH, 0);
	handle(SIGCONT, 0);
	/* A parent may have set SIGPIPE to be ignored; a filter whose reader is gone should end like any other. */
	signal(SIGPIPE, SIG_DFL);
}

void cli_interrupt_twice_kills(void)
{
	handle(SIGINT, (int)SA_RESETHAND);
}

void cli_end_in_order(void)
{
	handle(SIGHUP, (int)SA_RESETHAND);
	handle(SIGTERM, (int)SA_RESETHAND);
}

bool cli_ending(void)
{
	return ending;
}

bool cli_interrupted(void)
{
	return interrupted;
}

void cli_clear_interrupted(void)
{
	interrupted = ending;	/* a request to end is not taken back */
}

const volatile int *cli_interrupt_flag(void)
{
	return &interrupted;	/* sig_atomic_t is int wherever we run; elsewhere this does not compile */
}

bool cli_resized(void)
{
	return resized;
}

void cli_clear_resized(void)
{
	resized = 0;
}

bool cli_continued(void)
{
	return continued;
}

void cli_clear_continued(void)
{
	continued = 0;
}
