"""Chats, in the exact forms in which WhatsApp and VK write them."""

import shlex

import pytest

pytest_plugins = ["collecting"]

# WhatsApp

MEDIA = "media, and notes of WhatsApp's"

IPHONE = """\
[12.03.24, 18:05:11] Дача: \u200eСообщения и звонки защищены сквозным шифрованием.
[12.03.24, 18:05:30] Анна: Привет!
Вторая строка: с двоеточием
[12.03.24, 18:06:00] Анна: \u200eизображение отсутствует
\u200e[12.03.24, 18:06:10] Борис: \u200e<прикреплено: 00000012-PHOTO-2024-03-12-18-06-10.jpg>
[12.03.24, 18:07:00] Борис: Вижу \u200e<Сообщение изменено>
[12.03.24, 18:08:00] Анна: \u200eДанное сообщение удалено
[12.03.24, 18:09:00] Анна: И хорошо
"""
AMERICAN = """\
[3/12/24, 6:05:11\u202fPM] Club: \u200eMessages and calls are end-to-end encrypted.
[3/12/24, 6:05:30\u202fPM] Ann: Hello
[3/12/24, 11:59:00\u202fPM] Ann: Late
[3/13/24, 12:01:00\u202fAM] Ann: Later
[3/13/24, 12:02:00\u202fAM] Bob: \u200eimage omitted
[3/13/24, 12:03:00\u202fAM] Bob: Fine
"""
ANDROID = """\
12/03/2024, 18:05 - Messages and calls are end-to-end encrypted. No one outside of this chat can read them.
12/03/2024, 18:05 - Ann created group "Club: the first"
12/03/2024, 18:05 - Ann: Hello
12/03/2024, 18:06 - Ann: <Media omitted>
12/03/2024, 18:06 - Bob: \u200eIMG-20240312-WA0001.jpg (file attached)
What a view
12/03/2024, 18:07 - Bob: This message was deleted
12/03/2024, 18:08 - Bob: You see <This message was edited>
12/03/2024, 18:09 - Ann: null
12/03/2024, 18:10 - +7 912 345-67-89: Кто здесь?
"""
RUSSIAN_ANDROID = """\
12.03.2024, 18:05 - Сообщения и звонки защищены сквозным шифрованием. Третьи лица не\u00a0могут их прочитать.
12.03.2024, 18:05 - Анна: <Без медиафайлов>
12.03.2024, 18:05 - Анна: Привет
12.03.2024, 18:06 - Борис: VID-20240312-WA0001.mp4 (файл добавлен)
12.03.2024, 18:06 - Борис: Данное сообщение удалено
12.03.2024, 18:07 - Борис: Ага
"""


@pytest.mark.parametrize(
    ("content", "name", "texts", "left"),
    [
        (IPHONE, "Анна", ["Привет!\nВторая строка: с двоеточием", "И хорошо"], {MEDIA: 4, "messages by others": 1}),
        (AMERICAN, "Ann", ["Hello", "Late\nLater"], {MEDIA: 2, "messages by others": 1}),
        (
            ANDROID,
            "Bob",
            ["What a view\nYou see"],
            {"service messages": 3, MEDIA: 2, "messages by others": 2},
        ),
        (RUSSIAN_ANDROID, "Борис", ["Ага"], {"service messages": 2, MEDIA: 2, "messages by others": 1}),
    ],
    ids=["iPhone", "American iPhone", "Android", "Russian Android"],
)
def test_what_one_person_wrote_in_whatsapp(collect, tmp_path, content, name, texts, left):
    (tmp_path / "_chat.txt").write_text(content, encoding="utf-8", newline="\r\n" if content is IPHONE else "\n")
    run = collect("_chat.txt", "--mine", name)
    assert run.texts == texts
    assert run.left() == left
    run.counts()


def test_what_an_iphone_adds_to_messages_goes_in_any_language(collect, tmp_path):
    (tmp_path / "chat.txt").write_text(
        "[12.03.2024, 14:05:00] Аня: @\u2068Боря\u2069 смотри\r\n"
        "\u200e[12.03.2024, 14:06:11] Боря: Вот фото \u200e<прикреплено: 00000004-PHOTO-2024.jpg>\r\n"
        "[12.03.2024, 14:07:00] Боря: Ого \u200e<Это сообщение изменено>\r\n"
        "[12.03.2024, 14:08:00] Аня: \u200eОПРОС:\r\nКуда?\r\nВАРИАНТ: Кино (1 голос)\r\n",
        encoding="utf-8",
    )
    run = collect("chat.txt", "--dialogue")
    assert run.texts == ["Аня: @Боря смотри\nБоря: Вот фото\nОго"]
    assert run.left() == {"polls": 1}


@pytest.mark.parametrize("stamp", ["12/3/24, 2:05 p.\u00a0m. - ", "12/03/2024 à 14:05 - "])
def test_stamps_of_spain_and_france(collect, tmp_path, stamp):
    (tmp_path / "chat.txt").write_text(f"{stamp}Ana: Hola\n{stamp}Luc: Salut\n", encoding="utf-8")
    assert collect("chat.txt", "--dialogue").texts == ["Ana: Hola\nLuc: Salut"]


@pytest.mark.parametrize(
    "who", ["Александра Константиновна Преображенская-Вознесенская", "👩\u200d💻 Боря", 'Вася "Бык"']
)
def test_a_name_can_be_given_as_it_is_shown(collect, refused, tmp_path, who):
    (tmp_path / "chat.txt").write_text(f"12.03.2024, 18:05 - {who}: Привет\n" * 2, encoding="utf-8")
    shown = refused("chat.txt").partition("in it write ")[2].rpartition(" (")[0]
    (given,) = shlex.split(shown)
    assert collect("chat.txt", "--mine", given).texts == ["Привет\nПривет"]


@pytest.mark.parametrize("name", ['Саша "Кот"', "«Кот»"])
def test_a_contact_with_quotes_in_the_name_is_a_contact(collect, tmp_path, name):
    chat = f"""\
12.03.2024, 18:05 - {name} изменил(а) название группы с "А" на "Клуб: второй"
12.03.2024, 18:05 - {name} изменил(а) название группы на «Клуб: третий»
12.03.2024, 18:06 - {name}: Привет
12.03.2024, 18:07 - Анна: Ага
"""
    (tmp_path / "_chat.txt").write_text(chat, encoding="utf-8")
    run = collect("_chat.txt", "--mine", name)
    assert run.texts == ["Привет"]
    assert run.left() == {"service messages": 2, "messages by others": 1}


@pytest.mark.parametrize(("pause", "texts"), [("inf", ["Hello\nLate\nLater"]), ("0", ["Hello", "Late", "Later"])])
def test_a_pause_may_be_as_long_as_one_likes(collect, tmp_path, pause, texts):
    (tmp_path / "_chat.txt").write_text(AMERICAN, encoding="utf-8")
    assert collect("_chat.txt", "--mine", "Ann", "--pause", pause).texts == texts


def test_exchanges_in_whatsapp(collect, tmp_path):
    (tmp_path / "WhatsApp Chat with Bob.txt").write_text(ANDROID, encoding="utf-8")
    assert collect("WhatsApp Chat with Bob.txt", "--dialogue").texts == [
        "Ann: Hello\nBob: What a view\nYou see\n+7 912 345-67-89: Кто здесь?"
    ]


# VK


def vk_page(*messages):
    """A page of the archive; the newest message stands first."""
    items = "".join(
        f"""<div class="item"><div class='item__main'><div class="message" data-id="{number}">
  <div class="message__header">{header}</div>
  <div>{text}<div class="kludges">{kludges}</div></div>
</div></div></div>
"""
        for number, (header, text, kludges) in enumerate(messages)
    )
    return f"""<!DOCTYPE html>
<html lang="ru"><head><meta http-equiv="X-UA-Compatible" content="IE=edge"><meta charset="windows-1251">
<link rel="stylesheet" href="../../style.css"></head><body><div class="wrap"><div class="header"></div>
<div class="wrap_page_content"><div class="page_block_header clear_fix"><div class="ui_crumb">Анна Белова</div></div>
{items}</div></div></body></html>""".encode("cp1251")


def attached(what, link=""):
    return f"""<div class="attachment">
  <div class="attachment__description">{what}</div>
  <a class='attachment__link' href='{link}'>{link}</a>
</div>"""


ANNA = '<a href="https://vk.com/id7">Анна Белова</a>'
NEWER = [
    (f"{ANNA}, 12 мар 2024 в 18:09:11", "Пока &amp; до завтра", ""),
    ("Вы, 12 мар 2024 в 18:08:11", "", attached("Фотография", "https://vk.com/photo1")),
    (
        f"{ANNA}, 12 мар 2024 в 18:07:11",
        "",
        '<a class="im_srv_lnk " target="_blank" href="https://vk.com/id7">Анна Белова</a> закрепила сообщение',
    ),
    ("Вы, 12 мар 2024 в 18:06:11", "", attached("2 прикреплённых сообщения")),
    (
        "Вы, 12 мар 2024 в 18:05:11<span class='message-edited' title='12 мар 2024 в 18:05:30'> (ред.)</span>",
        "вторая<br>строка",
        "",
    ),
]
OLDER = [
    ("Вы, 12 мар 2024 в 18:04:11", "первая", attached("Ссылка", "https://example.org")),
    (f"{ANNA}, 12 мар 2024 в 18:03:11", "Ты где?", ""),
    (f"{ANNA}, 1 мая 2023 в 0:03:11", "Давно", ""),
]


@pytest.fixture
def vk(tmp_path):
    chat = tmp_path / "Archive/messages/7"
    chat.mkdir(parents=True)
    (chat / "messages0.html").write_bytes(vk_page(*NEWER))
    (chat / "messages50.html").write_bytes(vk_page(*OLDER))
    (tmp_path / "Archive/style.css").write_text("div { margin: 0 }")
    (tmp_path / "Archive/messages/index-messages.html").write_bytes(vk_page())
    return tmp_path / "Archive"


def test_vks_pages_are_one_chat_from_the_oldest_message_on(collect, vk):
    run = collect("Archive", "--mine", "Вы")
    assert run.texts == ["первая\nвторая\nстрока"]
    assert run.sources == ["Archive/messages/7/messages*.html:7"]
    assert run.left() == {
        "messages by others": 3,
        "service messages": 1,
        "forwarded messages": 1,
        "media without words": 1,
        "unreadable": 1,
        "style sheets and scripts": 1,
    }
    assert run.counts() == {"VK's archives": (8, 2, 1, 6)}
    assert "encoding windows-1251" in run.said
    assert "index-messages.html is a page of VK's archive that holds no messages" in run.said


def test_exchanges_in_vk(collect, vk):
    run = collect("Archive", "--dialogue")
    assert run.texts == ["Анна Белова: Ты где?\nВы: первая\nвторая\nстрока\nАнна Белова: Пока & до завтра"]
    assert run.left()["messages without an answer"] == 1


def test_vk_in_english(collect, tmp_path):
    page = vk_page(
        ("You, at 12:10:40 am on 4 Nov 2014", "second", attached("1 attached message")),
        ('<a href="https://vk.com/id7">Jane Doe</a>, at 7:15:40 pm on 3 Nov 2014', "first", ""),
    )
    (tmp_path / "messages0.html").write_bytes(page)
    assert collect("messages0.html", "--dialogue", "--pause", 5).texts == ["Jane Doe: first\nYou: second"]
