//! In a real terminal.

use crate::case::cases;
use crate::client::Client;
use crate::happenings::Happenings;
use crate::terminal::Terminal;

cases![
    Both:
        run_it_is_a_terminal,
        its_size_follows_the_window,
        control_c_reaches_the_program,
        detach_and_attach_again,
        detach_keys_are_chosen,
        exec_it_has_a_terminal_of_its_own,
        exit_codes_come_out_of_the_terminal,
        the_terminal_is_itself_again_afterwards,
        t_without_a_terminal_still_makes_one,
        input_that_is_no_terminal_is_refused;
];

fn run_it_is_a_terminal(c: &Client) {
    let terminal = Terminal::open(c, 80, 24, "docker run -it --rm --name $n busybox sh");
    terminal.shows("/ #");
    terminal.types("tty; stty size; test -t 0 && test -t 1 && test -t 2 && echo all three");
    terminal.shows("/dev/pts/0");
    terminal.shows("24 80");
    terminal.shows("all three");
    terminal.types("exit 3");
    terminal.shows("ended 3");
}

fn its_size_follows_the_window(c: &Client) {
    let terminal = Terminal::open(c, 90, 30, "docker run -it --rm busybox sh");
    terminal.shows("/ #");
    terminal.types("stty size");
    terminal.shows("30 90");
    for (columns, rows) in [(101, 27), (66, 33)] {
        terminal.resize(columns, rows);
        let expected = format!("{rows} {columns}");
        // The program learns of it a moment later.
        terminal.types(&format!("until stty size | grep '{expected}'; do sleep 0.05; done"));
        terminal.shows(&expected);
    }
    terminal.types("exit");
    terminal.shows("ended 0");
}

fn control_c_reaches_the_program(c: &Client) {
    let terminal = Terminal::open(c, 80, 24, "docker run -it --rm busybox sh");
    terminal.shows("/ #");
    terminal.types("sleep 1000; echo slept $?");
    terminal.shows_that("the command", |screen| screen.contains("slept $?"));
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.keys(&["C-c"]);
    // The shell lives on; its command is gone.
    terminal.types("echo still $((40 + 2))");
    terminal.shows("still 42");
    terminal.keys(&["C-d"]);
    terminal.shows_that("the end", |screen| screen.contains("ended "));
    let terminal = Terminal::open(
        c,
        80,
        25,
        "docker run -it --rm --init --name $n-direct busybox sh -c 'echo begun; sleep 1000'",
    );
    terminal.shows("begun");
    terminal.keys(&["C-c"]);
    terminal.shows_that("ended 130", |screen| screen.contains("ended 130"));
}

fn detach_and_attach_again(c: &Client) {
    let mut events = Happenings::of(c, &c.n);
    let terminal =
        Terminal::open(c, 80, 24, "docker run -it --name $n busybox sh; echo back at home; docker attach $n");
    terminal.shows("/ #");
    terminal.types("word=kept");
    terminal.keys(&["C-p", "C-q"]);
    terminal.shows_that("the way home", |screen| screen.contains("back at home"));
    c.says("docker inspect -f '{{.State.Running}}' $n", "true\n");
    // Attached by the run, and now again.
    events.come_to("attach", 2);
    terminal.types("echo $word again");
    terminal.shows("kept again");
    // A lone ctrl-p is a key like any other, once the next one shows that it is no detach.
    terminal.keys(&["C-p"]);
    terminal.keys(&["Enter"]);
    terminal.types("exit 4");
    terminal.shows("ended 4");
}

fn detach_keys_are_chosen(c: &Client) {
    let terminal = Terminal::open(c, 80, 24, "docker run -it --detach-keys ctrl-x,y --name $n busybox sh");
    terminal.shows("/ #");
    terminal.types("echo ready$((1))");
    terminal.shows("ready1");
    terminal.keys(&["C-x", "y"]);
    terminal.shows_that("the end", |screen| screen.contains("ended 0"));
    assert_eq!(c.inspect("$n", "{{.State.Running}}"), "true");
    let text =
        c.fails(125, "docker run --detach-keys nonsense-keys --rm -i busybox true < /dev/null || exit 125");
    assert!(text.contains("nonsense-keys") || text.contains("received 400"), "{text}");
}

fn exec_it_has_a_terminal_of_its_own(c: &Client) {
    c.ok("docker run -d --name $n busybox sleep 1000");
    let terminal = Terminal::open(c, 85, 26, "docker exec -it $n sh");
    terminal.shows("/ #");
    terminal.types("until stty size | grep '26 85'; do sleep 0.05; done; tty");
    terminal.shows("26 85");
    terminal.shows("/dev/pts/0");
    terminal.resize(70, 28);
    terminal.types("until stty size | grep '28 70'; do sleep 0.05; done");
    terminal.shows("28 70");
    terminal.types("exit 6");
    terminal.shows("ended 6");
}

fn exit_codes_come_out_of_the_terminal(c: &Client) {
    let terminal = Terminal::open(c, 80, 24, "docker run -it --rm busybox nosuchprogram");
    terminal.shows("ended 127");
    let screen = terminal.screen();
    assert!(screen.contains("executable file not found in $PATH"), "{screen}");
    let terminal = Terminal::open(c, 80, 25, "docker run -it --rm --init busybox sh -c 'kill -9 $$'");
    terminal.shows("ended 137");
}

fn the_terminal_is_itself_again_afterwards(c: &Client) {
    let terminal = Terminal::open(
        c,
        80,
        24,
        "stty -a > before; docker run -it --rm busybox stty raw -echo; stty -a > after; cmp before after",
    );
    terminal.shows("ended 0");
}

fn t_without_a_terminal_still_makes_one(c: &Client) {
    // The terminal's line ends.
    c.says("docker run -t --rm busybox sh -c 'test -t 1 && echo terminal'", "terminal\r\n");
    c.ok("docker run -d -t --name $n busybox sh -c 'echo out; echo err >&2'");
    c.says("docker wait $n; docker logs $n", "0\nout\r\nerr\r\n");
}

fn input_that_is_no_terminal_is_refused(c: &Client) {
    let text = c.fails(1, "echo x | docker run -it --rm --name $n busybox cat");
    assert!(text.contains("the input device is not a TTY"), "{text}");
    c.ok("docker run -d --name $n-r busybox sleep 1000");
    let text = c.fails(1, "echo x | docker exec -it $n-r cat");
    assert!(text.contains("the input device is not a TTY"), "{text}");
}
