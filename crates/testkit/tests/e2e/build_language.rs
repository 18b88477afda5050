//! The language of Dockerfiles, instruction by instruction.

use crate::build_table::{Row, build_all};
use crate::case::cases;
use crate::client::Client;

cases![
    Both:
        variables_have_their_values.differs("its classic builder does not know all forms"),
        stages_stand_on_one_another.differs("its classic builder does not know all forms"),
        text_is_read_as_written.differs("its classic builder knows no heredocs"),
        instructions_end_in_the_config.differs("its classic builder does not know all forms");
];

fn variables_have_their_values(c: &Client) {
    build_all(c, VARIABLES);
}

pub(crate) const VARIABLES: &[Row] = &[
    Row::new(
        "env-forms",
        r#"FROM busybox
ENV A=1 B="two words" C='$A' D=a\ b
ENV E old form
RUN [ "$B" = "two words" ] && [ "$C" = '$A' ] && [ "$D" = "a b" ] && [ "$E" = "old form" ]
"#,
    )
    .check(r#"is "$(config Env)" '["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","A=1","B=two words","C=$A","D=a b","E=old form"]'"#),
    Row::new(
        "env-expansion",
        r#"FROM busybox
ENV A=foo.tar.gz N=
ENV B=${A:-x} C=${N:-y} D=${N-z} E=${A:+set} F=${N:+set} G=${A%.*} H=${A%%.*} I=${A#*.} J=${A##*.} K=${A/o/0} L=${A//o/0} M=\$A O="${A}"x
RUN [ "$B|$C|$D|$E|$F|$G|$H|$I|$J|$K|$L|$M|$O" = 'foo.tar.gz|y||set||foo.tar|foo|tar.gz|gz|f0o.tar.gz|f00.tar.gz|$A|foo.tar.gzx' ]
"#,
    ),
    Row::new("env-old-values-on-a-line", "FROM busybox\nENV A=1\nENV A=2 B=$A\nRUN [ $A$B = 21 ]\n"),
    Row::new(
        "arg-of-the-command-line",
        "FROM busybox\nARG X=default\nARG Y\nARG Z=$X-$Y\nRUN [ \"$X $Y $Z\" = 'given  given-' ]\n",
    )
    .flags("--build-arg X=given"),
    Row::new(
        "arg-before-from",
        "ARG BASE=busybox\nARG V=latest\nFROM $BASE:${V}\nRUN [ \"$V\" = '' ]\nARG V\nRUN [ \"$V\" = latest ]\n",
    ),
    Row::new(
        "arg-is-of-its-stage-and-those-upon-it",
        "FROM busybox AS a\nARG X=1\nRUN [ \"$X\" = 1 ]\nFROM busybox\nRUN [ \"$X\" = '' ]\nFROM a\nRUN [ \"$X\" = 1 ]\nARG X\nRUN [ \"$X\" = 1 ]\n",
    ),
    Row::new("arg-is-hidden-by-env", "FROM busybox\nARG X=arg\nENV X=env\nRUN [ $X = env ]\n").flags("--build-arg X=given"),
    Row::new("arg-hides-env-before-it", "FROM busybox AS a\nENV X=env\nARG X\nRUN [ $X = given ]\nLABEL x=$X\nFROM a\nRUN [ $X = env ]\n").flags("--build-arg X=given").check(r#"is "$(config Labels)" '{"x":"given"}'"#),
    Row::new("arg-without-a-value-hides-nothing", "FROM busybox\nENV X=env\nARG X\nRUN [ $X = env ]\nARG X=arg\nENV X=$X-2\nRUN [ $X = arg-2 ]\n"),
    Row::new("arg-from-the-line-on", "FROM busybox\nRUN [ \"$X\" = '' ]\nARG X=1\nRUN [ \"$X\" = 1 ]\n"),
    Row::new("arg-kept-as-env", "FROM busybox\nARG V=1\nENV V=${V:-2}\nRUN [ $V = 5 ]\n")
        .flags("--build-arg V=5")
        .check(r#"is "$(config Env | grep -c '"V=5"')" 1"#),
    Row::new(
        "arg-platform",
        "FROM busybox\nARG TARGETPLATFORM\nARG TARGETOS TARGETARCH BUILDPLATFORM\nRUN [ $TARGETPLATFORM = $TARGETOS/$TARGETARCH ] && [ $BUILDPLATFORM = $TARGETPLATFORM ]\n",
    ),
    Row::new("arg-proxy-leaves-no-trace", "FROM busybox\nRUN [ $HTTP_PROXY$http_proxy = http://secret@phttp://secret@p ]\n")
        .flags("--build-arg HTTP_PROXY=http://secret@p")
        .check(r#"! docker history --no-trunc $i | grep secret; is "$(config Env | grep -c PROXY)" 0"#),
    Row::new(
        "variables-in-every-instruction",
        r#"FROM busybox
ENV D=/data U=5 P=81 L=label S=SIGTERM
WORKDIR $D/w
COPY a.txt ${D}/a.txt
ADD a.txt ${D}/b.txt
EXPOSE $P
LABEL $L=x
STOPSIGNAL $S
VOLUME ${D}/v
USER $U
RUN [ "$(pwd)" = /data/w ] && cmp /data/a.txt /data/b.txt && [ "$(id -u)" = 5 ]
"#,
    )
    .check(r#"is "$(config ExposedPorts)$(config StopSignal)$(config Volumes)$(config User)" '{"81/tcp":{}}"SIGTERM"{"/data/v":{}}"5"'"#),
];

fn stages_stand_on_one_another(c: &Client) {
    build_all(c, STAGES);
}

pub(crate) const STAGES: &[Row] = &[
    Row::new(
        "stage-names",
        "FROM busybox AS one\nRUN echo 1 > /f\nFROM busybox as Two\nRUN echo 2 > /f\nFROM busybox\nCOPY --from=one /f /1\nCOPY --from=two /f /2\nCOPY --from=0 /f /0\nRUN [ \"$(cat /0 /1 /2 | tr -d '\\n')\" = 112 ]\n",
    ),
    Row::new(
        "stage-inherits-config",
        "FROM busybox AS a\nENV A=1\nWORKDIR /w\nUSER 7\nLABEL l=1\nCMD [\"c\"]\nFROM a\nRUN [ $A = 1 ] && [ $(pwd) = /w ] && [ $(id -u) = 7 ]\n",
    )
    .check(r#"is "$(config Cmd)$(config Labels)" '["c"]{"l":"1"}'"#),
    Row::new("stage-target", "FROM busybox AS a\nLABEL s=a\nFROM busybox AS b\nRUN false\n")
        .flags("--target a")
        .check(r#"is "$(config Labels)" '{"s":"a"}'"#),
    Row::new("stage-target-in-other-case", "FROM busybox AS Abc\nLABEL s=a\nFROM busybox AS b\nRUN false\n")
        .flags("--target aBC")
        .check(r#"is "$(config Labels)" '{"s":"a"}'"#),
    Row::new("stage-unused-is-not-run", "FROM busybox AS x\nRUN false\nFROM none.invalid/x AS y\nFROM busybox\nRUN true\n"),
    Row::new("stage-on-a-variable", "ARG WHICH=b\nFROM busybox AS stage-a\nRUN false\nFROM busybox AS stage-b\nLABEL s=b\nFROM stage-$WHICH\n")
        .check(r#"is "$(config Labels)" '{"s":"b"}'"#),
    Row::new("stage-platform", "FROM --platform=linux/amd64 busybox\nRUN true\n"),
    Row::new("stage-platform-of-the-build", "FROM --platform=$BUILDPLATFORM busybox AS b\nARG TARGETARCH\nRUN [ -n \"$TARGETARCH\" ]\nFROM scratch\nCOPY --from=b /bin/busybox /b\n"),
    Row::new("stage-scratch", "FROM scratch\nCOPY --from=busybox /bin/busybox /busybox\nENTRYPOINT [\"/busybox\",\"echo\",\"from scratch\"]\n")
        .check(r#"is "$(docker run --rm $i)" "from scratch""#),
    Row::new("stage-scratch-alone", "FROM scratch\nLABEL x=1\n").check(r#"is "$(docker image inspect -f '{{json .RootFS}}' $i)" '{"Type":"layers"}'"#),
    Row::new("stage-named-as-an-image", "FROM busybox AS busybox\nRUN echo 1 > /mark\nFROM busybox\nRUN [ -f /mark ]\n"),
    Row::new("stage-copies-all", "FROM busybox AS a\nRUN mkdir -p /x/y && echo 1 > /x/y/f && ln -s f /x/y/l && chmod 700 /x/y && chown 3:4 /x/y/f\nFROM scratch AS m\nCOPY --from=a / /\nFROM m\nRUN [ \"$(stat -c %a /x/y)\" = 700 ] && [ \"$(stat -c %u:%g /x/y/f)\" = 3:4 ] && [ \"$(readlink /x/y/l)\" = f ]\n"),
    Row::new("stage-deleted-files", "FROM busybox AS a\nRUN mkdir /d && echo 1 > /d/f && echo 2 > /d/g\nRUN rm /d/f\nRUN rm -r /d && mkdir /d && echo 3 > /d/h\nFROM busybox\nCOPY --from=a /d /d\nRUN [ \"$(ls /d)\" = h ]\nFROM a\nRUN [ \"$(ls /d)\" = h ]\n"),
    Row::new("stage-onbuild", "FROM busybox AS p\nONBUILD ARG T=1\nONBUILD RUN echo $T > /t\nONBUILD COPY a.txt /a\nONBUILD ENV O=x\nFROM p\nRUN [ \"$(cat /t /a)\" = \"$(printf '1\\na')\" ] && [ $O = x ]\n")
        .check(r#"is "$(config OnBuild)" null"#),
    Row::new("stage-onbuild-of-an-image", "FROM busybox\nONBUILD RUN echo triggered > /t\nLABEL stays=1\n")
        .check(r#"is "$(config OnBuild)" '["RUN echo triggered > /t"]'
printf 'FROM %s\nRUN [ "$(cat /t)" = triggered ]\n' $i | build -t $i-2 - > $out 2>&1 || { cat $out; exit 1; }
i=$i-2; is "$(config OnBuild)$(config Labels)" 'null{"stays":"1"}'"#),
];

fn text_is_read_as_written(c: &Client) {
    build_all(c, TEXT);
}

pub(crate) const TEXT: &[Row] = &[
    Row::new(
        "text-comments",
        "# a comment\n\nFROM busybox\n  # indented\nRUN echo a \\\n# between\n   && echo b \\\n\n  > /f\nENV A=#x\nRUN [ \"$(cat /f)\" = b ] && [ \"$A\" = '#x' ]\n",
    ),
    Row::new("text-lower-case", "from busybox as a\nrun echo x > /f\ncopy a.txt /a\nFrom a\nworkdir /w\n"),
    Row::new(
        "text-crlf",
        "FROM busybox\r\nENV A=1 \\\r\n  B=2\r\nRUN [ \"$A$B\" = 12 ]\r\nCOPY <<EOF /f\r\nx\r\nEOF\r\nRUN [ $(wc -c < /f) = 3 ]\r\n",
    ),
    Row::new("text-bom", "\u{feff}FROM busybox\nRUN true\n"),
    Row::new("text-syntax", "# syntax=docker/dockerfile:1.7-labs\nFROM busybox\nRUN true\n"),
    Row::new(
        "text-escape",
        "# escape=`\nFROM busybox\nENV P=c:\\x\nRUN echo a `\n && [ \"$P\" = 'c:\\x' ]\n",
    ),
    Row::new("text-no-end-of-line", "FROM busybox\nRUN true"),
    Row::new("text-tabs", "FROM\tbusybox\n\tRUN\techo x\t> /f\n\tCOPY\ta.txt\t/a\n"),
    Row::new(
        "heredoc-run",
        "FROM busybox\nRUN <<EOF\nset -e\nx=1\n[ $x = 1 ]\necho \"$x\" > /f\nEOF\nRUN [ \"$(cat /f)\" = 1 ]\n",
    ),
    Row::new(
        "heredoc-interpreter",
        "FROM busybox\nRUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"awk\" > \"/f\" }\nEOF\nRUN [ \"$(cat /f)\" = awk ]\n",
    ),
    Row::new(
        "heredoc-input",
        "FROM busybox\nENV V=1\nRUN cat <<EOF >/a && cat <<'RAW' >/b\nv=$V\nEOF\nv=$V\nRAW\nRUN [ \"$(cat /a)\" = v=1 ] && [ \"$(cat /b)\" = 'v=$V' ]\n",
    ),
    Row::new(
        "heredoc-tabs",
        "FROM busybox\nRUN <<-EOF\n\tcat > /f <<-IN\n\t\tx\n\tIN\n\tEOF\nRUN [ \"$(cat /f)\" = x ]\n",
    ),
    Row::new(
        "heredoc-copy",
        "FROM busybox\nARG V=val\nCOPY <<EOF /f\n$V ${V} \\$V\nEOF\nCOPY <<\"A\" <<B /d/\n$V\nA\nb\nB\nRUN [ \"$(cat /f)\" = 'val val $V' ] && [ \"$(cat /d/A)\" = '$V' ] && [ \"$(cat /d/B)\" = b ] && [ $(stat -c %a /f) = 644 ]\n",
    ),
    Row::new(
        "heredoc-copy-with-files",
        "FROM busybox\nCOPY a.txt <<EOF b.txt /d/\nx\nEOF\nRUN [ \"$(ls /d | tr '\\n' ' ')\" = 'EOF a.txt b.txt ' ]\n",
    ),
    Row::new(
        "heredoc-add",
        "FROM busybox\nADD --chmod=700 --chown=1:2 <<EOF /x/script\n#!/bin/sh\nEOF\nRUN [ \"$(stat -c %a.%u.%g /x/script)\" = 700.1.2 ]\n",
    ),
    Row::new("heredoc-in-onbuild", "FROM busybox AS p\nONBUILD RUN echo x > /f\nFROM p\nRUN [ -f /f ]\n"),
    Row::new(
        "run-exec-form",
        "FROM busybox\nRUN [\"/bin/touch\", \"/a b\", \"/$HOME\"]\nRUN [ -f '/a b' ] && [ -f '/$HOME' ]\n",
    ),
    Row::new("run-broken-json-is-shell", "FROM busybox\nRUN [ -n x ] && echo ok > /f\nRUN [ -f /f ]\n"),
    Row::new("run-here-string", "FROM busybox\nRUN echo $((1<<2)) > /f\nRUN [ \"$(cat /f)\" = 4 ]\n"),
];

fn instructions_end_in_the_config(c: &Client) {
    build_all(c, CONFIG);
}

pub(crate) const CONFIG: &[Row] = &[
    Row::new("cmd-exec", "FROM busybox\nCMD [\"echo\",\"a b\"]\n").check(r#"is "$(docker run --rm $i)" "a b""#),
    Row::new("cmd-shell", "FROM busybox\nENV A=1\nCMD echo $A\n").check(r#"is "$(config Cmd)" '["/bin/sh","-c","echo $A"]'; is "$(docker run --rm $i)" 1"#),
    Row::new("cmd-last-counts", "FROM busybox\nCMD a\nCMD [\"b\"]\n").check(r#"is "$(config Cmd)" '["b"]'"#),
    Row::new("entrypoint-clears-cmd-of-base", "FROM busybox\nENTRYPOINT [\"echo\"]\n").check(r#"is "$(config Cmd)" null; is "$(docker run --rm $i x)" x"#),
    Row::new("entrypoint-keeps-own-cmd", "FROM busybox\nCMD [\"c\"]\nENTRYPOINT [\"echo\"]\n").check(r#"is "$(docker run --rm $i)" c"#),
    Row::new("entrypoint-empty", "FROM busybox\nENTRYPOINT []\nCMD [\"echo\",\"x\"]\n").check(r#"is "$(docker run --rm $i)" x"#),
    Row::new("shell", "FROM busybox\nSHELL [\"/bin/sh\",\"-exc\"]\nRUN false || true\nCMD true\n").check(r#"is "$(config Shell)$(config Cmd)" '["/bin/sh","-exc"]["/bin/sh","-exc","true"]'"#),
    Row::new("healthcheck", "FROM busybox\nHEALTHCHECK --interval=5s --timeout=1m --start-period=1s --start-interval=2s --retries=4 CMD true\n")
        .check(r#"is "$(config Healthcheck)" '{"Test":["CMD-SHELL","true"],"Interval":5000000000,"Timeout":60000000000,"StartPeriod":1000000000,"StartInterval":2000000000,"Retries":4}'"#),
    Row::new("healthcheck-none", "FROM busybox\nHEALTHCHECK NONE\n").check(r#"is "$(config Healthcheck)" '{"Test":["NONE"]}'"#),
    Row::new("stopsignal", "FROM busybox\nSTOPSIGNAL 9\n").check(r#"is "$(config StopSignal)" '"9"'"#),
    Row::new("volume", "FROM busybox\nRUN mkdir /v && echo kept > /v/f\nVOLUME /v /w\nVOLUME [\"/a b\"]\n")
        .check(r#"is "$(config Volumes)" '{"/a b":{},"/v":{},"/w":{}}'; is "$(docker run --rm $i cat /v/f)" kept"#),
    Row::new("volume-is-written-later", "FROM busybox\nVOLUME /v\nRUN mkdir -p /v && echo x > /v/f\nRUN cat /v/f\n"),
    Row::new("user-names", "FROM busybox\nUSER app\nRUN [ \"$(id -u):$(id -g) $HOME\" = '1000:1000 /home' ] && id -G | grep -q 2000\nUSER app:extra\nRUN [ \"$(id -g)\" = 2000 ]\nUSER 5:6\nRUN [ \"$(id -u):$(id -g)\" = 5:6 ]\nUSER root\nRUN touch /x\n")
        .check(r#"is "$(config User)" '"root"'"#),
    Row::new("user-made-by-run", "FROM busybox\nRUN echo new:x:77:78::/:/bin/sh >> /etc/passwd\nUSER new\nRUN [ $(id -u):$(id -g) = 77:78 ]\nCOPY --chown=new a.txt /a\nRUN [ $(stat -c %u:%g /a) = 77:78 ]\n"),
    Row::new("workdir", "FROM busybox\nWORKDIR /a\nWORKDIR b/../c\nWORKDIR d/\nRUN [ $(pwd) = /a/c/d ] && [ $(stat -c %a /a/c) = 755 ]\n").check(r#"is "$(config WorkingDir | tr -d /)" '"acd"'"#),
    Row::new("workdir-of-a-user", "FROM busybox\nUSER app\nWORKDIR /w/x\nRUN touch f && [ $(stat -c %u:%g.%a /w/x) = 1000:1000.755 ]\n"),
    Row::new("workdir-there-already", "FROM busybox\nRUN mkdir -m 711 /w && chown 3:4 /w\nWORKDIR /w\nRUN [ $(stat -c %u:%g.%a /w) = 3:4.711 ]\n"),
    Row::new("workdir-by-a-link", "FROM busybox\nRUN mkdir /real && ln -s /real /link\nWORKDIR /link/sub\nRUN [ -d /real/sub ] && [ $(readlink -f .) = /real/sub ]\n"),
    Row::new("workdir-removed-again", "FROM busybox\nWORKDIR /w\nRUN cd / && rmdir /w\nRUN pwd\n"),
    Row::new("expose", "FROM busybox\nEXPOSE 80 443/tcp 53/udp\nEXPOSE 7000-7002\n").check(r#"is "$(config ExposedPorts)" '{"443/tcp":{},"53/udp":{},"7000/tcp":{},"7001/tcp":{},"7002/tcp":{},"80/tcp":{}}'"#),
    Row::new("label", "FROM busybox\nLABEL a=1 \"b c\"=\"d e\" \\\n  f='g'\nLABEL a=2\n").flags("--label a=3 --label new=x=y").check(r#"is "$(config Labels)" '{"a":"3","b c":"d e","f":"g","new":"x=y"}'"#),
    Row::new("maintainer", "FROM busybox\nMAINTAINER Some One <x@y>\n").check(r#"is "$(docker image inspect -f '{{.Author}}' $i)" 'Some One <x@y>'"#),
    Row::new("history", "FROM busybox\nENV A=1\nRUN echo x > /f\nCOPY a.txt /a\nCMD [\"x\"]\n")
        .check(r#"is "$(docker history --no-trunc --format '{{.CreatedBy}}|{{.Size}}' $i | head -4)" "$(printf 'CMD ["x"]|0B\nCOPY a.txt /a # buildkit|2B\nRUN /bin/sh -c echo x > /f # buildkit|2B\nENV A=1|0B')""#),
    Row::new("empty-layers", "FROM busybox\nRUN true\nRUN mkdir /x\nRUN true\nWORKDIR /\n").check(r#"docker run --rm $i ls -d /x > /dev/null"#),
];
