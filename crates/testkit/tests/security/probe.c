/* What a container can do, seen from inside; static, so that it runs in any image.
 *
 *   probe fds                     numbers of its open descriptors, on one line
 *   probe status                  the lines of /proc/self/status about identity and confinement
 *   probe write PATH              opens for writing; says "opened" or the error
 *   probe read PATH               opens and reads one byte; says "read", "empty" or the error
 *   probe call NR [ARG]...        makes one system call; says the result or the error
 *   probe call32 NR [ARG]...      the same through the 32-bit entry
 *   probe filter                  reads lines "NR ARG..." and says for each what the filter it was started
 *                                 under answers: nothing is executed, because a second filter hands all that
 *                                 the first one lets through to a tracer that is not there (ENOSYS)
 *   probe breakout PATH           leaves a chroot in the old way; says "out" if PATH can be seen then
 *   probe hold PATH               opens PATH for reading and, over 2 s, again and again for writing through
 *                                 the descriptor; says "opened" or the last error
 *   probe swap ONE OTHER          exchanges two names as fast as it can, for ever
 *   probe alg                     binds an AF_ALG socket; says "bound" or the error
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int say(long result)
{
	if (result < 0)
		printf("%s\n", strerrorname_np(errno));
	else
		printf("%ld\n", result);
	return 0;
}

static int fds(void)
{
	for (int fd = 0; fd < 4096; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			printf(fd ? " %d" : "%d", fd);
	printf("\n");
	return 0;
}

static int status(void)
{
	char line[512];
	FILE *file = fopen("/proc/self/status", "r");
	if (!file)
		return say(-1);
	while (fgets(line, sizeof line, file))
		if (!strncmp(line, "Cap", 3) || !strncmp(line, "Uid", 3) || !strncmp(line, "Gid", 3) ||
		    !strncmp(line, "Groups", 6) || !strncmp(line, "NoNewPrivs", 10) || !strncmp(line, "Seccomp:", 8))
			fputs(line, stdout);
	return 0;
}

static int open_for(const char *path, int flags)
{
	char byte;
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return say(-1);
	if (flags == O_WRONLY) {
		puts("opened");
		return 0;
	}
	ssize_t length = read(fd, &byte, 1);
	if (length < 0)
		return say(-1);
	puts(length ? "read" : "empty");
	return 0;
}

static void numbers(int count, char **words, long *into)
{
	for (int index = 0; index < 7; index++)
		into[index] = index < count ? (long)strtoull(words[index], NULL, 0) : 0;
}

static int call(int count, char **words)
{
	long n[7];
	numbers(count, words, n);
	return say(syscall(n[0], n[1], n[2], n[3], n[4], n[5], n[6]));
}

static int call32(int count, char **words)
{
#ifdef __x86_64__
	long n[7], result;
	numbers(count, words, n);
	__asm__ volatile("int $0x80" : "=a"(result) : "a"(n[0]), "b"(n[1]), "c"(n[2]), "d"(n[3]), "S"(n[4]) : "memory", "r8", "r9", "r10", "r11");
	result = (int)result;
	if (result < 0) {
		errno = -result;
		result = -1;
	}
	return say(result);
#else
	puts("ENOSYS");
	return 0;
#endif
}

static int filter(void)
{
	static long wanted[1024][7];
	static int answers[1024];
	char line[512];
	int count = 0;
	while (count < 1024 && fgets(line, sizeof line, stdin)) {
		char *words[7], *rest = line;
		int found = 0;
		while (found < 7 && (words[found] = strtok_r(rest, " \n", &rest)))
			found++;
		numbers(found, words, wanted[count++]);
	}
	/* Under the second filter only one thing works: writing to this pipe. */
	int ends[2];
	if (pipe(ends))
		return say(-1);
	pid_t child = fork();
	if (child == 0) {
		struct sock_filter code[] = {
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 5, 0),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 0, 3),
			BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
			BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ends[1], 0, 1),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
			BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		};
		struct sock_fprog program = {.len = sizeof code / sizeof *code, .filter = code};
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
			_exit(1);
		for (int index = 0; index < count; index++) {
			long *n = wanted[index];
			if (n[0] == SYS_exit_group) {
				answers[index] = ENOSYS;
				continue;
			}
			long result = syscall(n[0], n[1], n[2], n[3], n[4], n[5], n[6]);
			answers[index] = result < 0 ? errno : 0;
		}
		_exit(write(ends[1], answers, sizeof answers) != sizeof answers);
	}
	close(ends[1]);
	if (read(ends[0], answers, sizeof answers) != sizeof answers) {
		puts("no answers");
		return 1;
	}
	for (int index = 0; index < count; index++)
		printf("%ld %d\n", wanted[index][0], answers[index]);
	return 0;
}

static int breakout(const char *path)
{
	mkdir("/tmp/inner", 0755);
	if (chroot("/tmp/inner"))
		return say(-1);
	for (int step = 0; step < 64; step++)
		if (chdir(".."))
			return say(-1);
	if (chroot("."))
		return say(-1);
	puts(access(path, F_OK) ? "in" : "out");
	return 0;
}

static int hold(const char *path)
{
	char again[64];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return say(-1);
	snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
	time_t until = time(NULL) + 2;
	while (time(NULL) < until) {
		int writable = open(again, O_WRONLY | O_CLOEXEC);
		if (writable >= 0) {
			puts("opened");
			return 0;
		}
		usleep(1000);
	}
	return say(-1);
}

static int swap(const char *one, const char *other)
{
	for (;;)
		if (renameat2(AT_FDCWD, one, AT_FDCWD, other, RENAME_EXCHANGE))
			return say(-1);
}

static int alg(void)
{
	int fd = socket(AF_ALG, SOCK_SEQPACKET, 0);
	return fd < 0 ? say(-1) : (puts("bound"), 0);
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";
	if (!strcmp(what, "fds"))
		return fds();
	if (!strcmp(what, "status"))
		return status();
	if (!strcmp(what, "filter"))
		return filter();
	if (!strcmp(what, "alg"))
		return alg();
	if (argc > 2 && !strcmp(what, "write"))
		return open_for(argv[2], O_WRONLY);
	if (argc > 2 && !strcmp(what, "read"))
		return open_for(argv[2], O_RDONLY);
	if (argc > 2 && !strcmp(what, "call"))
		return call(argc - 2, argv + 2);
	if (argc > 2 && !strcmp(what, "call32"))
		return call32(argc - 2, argv + 2);
	if (argc > 2 && !strcmp(what, "breakout"))
		return breakout(argv[2]);
	if (argc > 2 && !strcmp(what, "hold"))
		return hold(argv[2]);
	if (argc > 3 && !strcmp(what, "swap"))
		return swap(argv[2], argv[3]);
	fprintf(stderr, "see the source\n");
	return 2;
}
