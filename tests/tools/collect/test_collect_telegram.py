"""Telegram's chats, in the exact form in which Telegram Desktop writes them."""

import json

pytest_plugins = ["collecting"]


def message(number, who, text, minute=0, **more):
    """As Telegram Desktop writes one; text that is shown in some way is a list."""
    entities = (
        [part if isinstance(part, dict) else {"type": "plain", "text": part} for part in text]
        if isinstance(text, list)
        else ([{"type": "plain", "text": text}] if text else [])
    )
    return {
        "id": number,
        "type": "message",
        "date": f"2024-03-12T18:{minute:02}:11",
        "date_unixtime": str(1710266711 + 60 * minute),
        "from": who,
        "from_id": f"user{abs(hash(who)) % 1000}",
        **more,
        "text": text,
        "text_entities": entities,
    }


NOT_INCLUDED = "(File not included. Change data exporting settings to download.)"
TELEGRAM = [
    {
        "id": 1,
        "type": "service",
        "date": "2024-03-12T17:00:00",
        "date_unixtime": "1710262800",
        "actor": "Анна",
        "actor_id": "user1",
        "action": "create_group",
        "title": "Дача",
        "members": ["Анна", "Boris"],
        "text": "",
        "text_entities": [],
    },
    message(2, "Анна", "Привет!", 1),
    message(
        3,
        "Анна",
        ["Смотри: ", {"type": "link", "text": "https://example.org"}, " и ", {"type": "bold", "text": "вот"}],
        2,
    ),
    message(4, "Boris", "Looks good", 3),
    message(5, "Анна", "Переслано", 4, forwarded_from="Канал"),
    message(6, "Анна", "", 5, media_type="sticker", sticker_emoji="😀", file=NOT_INCLUDED),
    message(7, "Анна", "Подпись к снимку", 6, photo=NOT_INCLUDED, width=10, height=10),
    message(8, "Boris", "inline", 7, via_bot="@gif"),
    message(9, "Анна", "Спустя\nполчаса", 8, reply_to_message_id=4),
    message(10, None, "кто я", 9),
]


def telegram(path, messages=TELEGRAM, everything=False):
    chat = {"name": "Дача", "type": "private_group", "id": 4242, "messages": messages}
    if everything:
        chat = {
            "about": "Here is the data you requested.",
            "personal_information": {"user_id": 1, "first_name": "Анна"},
            "contacts": {"about": "", "list": []},
            "chats": {"about": "", "list": [chat, {**chat, "name": "Boris", "type": "personal_chat"}]},
        }
    path.write_text(json.dumps(chat, ensure_ascii=False, indent=1), encoding="utf-8")


def test_what_one_person_wrote_in_telegram(collect, tmp_path):
    telegram(tmp_path / "result.json")
    run = collect("result.json", "--mine", "анна")
    assert run.texts == [
        "Привет!\nСмотри: https://example.org и вот",
        "Подпись к снимку\nСпустя\nполчаса",
    ]
    assert run.sources == ["result.json:Дача"] * 2
    assert run.counts() == {"Telegram's exports": (10, 4, 2, 6)}
    assert run.left() == {
        "service messages": 1,
        "forwarded messages": 1,
        "media without words": 1,
        "messages made by bots": 1,
        "messages by others": 2,
    }


def test_exchanges_in_telegram(collect, tmp_path):
    telegram(tmp_path / "result.json")
    run = collect("result.json", "--dialogue")
    assert run.texts == [
        "Анна: Привет!\nСмотри: https://example.org и вот\nBoris: Looks good\nАнна: Подпись к снимку\nСпустя\nполчаса\n"
        "Deleted Account: кто я"
    ]
    assert run.counts() == {"Telegram's exports": (10, 6, 1, 4)}
    assert (
        collect("result.json", "--dialogue", "--template", r"<{name}>\n{text}").texts[0].startswith("<Анна>\nПривет!\n")
    )


def test_a_pause_begins_a_new_document(collect, tmp_path):
    telegram(tmp_path / "result.json")
    run = collect("result.json", "--mine", "Анна", "--pause", 1 / 120)  # half a minute
    assert len(run.texts) == 4
    assert run.counts()["Telegram's exports"] == (10, 4, 4, 6)


def test_all_chats_of_an_account(collect, tmp_path):
    telegram(tmp_path / "result.json", everything=True)
    run = collect("result.json", "--mine", "Анна")
    assert run.sources == ["result.json:Дача"] * 2 + ["result.json:Boris"] * 2


def test_a_chat_asks_whose_messages_are_wanted(refused, tmp_path):
    telegram(tmp_path / "result.json")
    assert refused("result.json") == (
        "result.json is a chat: --mine NAME takes what one person wrote, --dialogue takes exchanges; in it write "
        'Анна (4), Boris (1), "Deleted Account" (1)'
    )
    assert refused("result.json", "--mine", "Вася") == (
        'no Вася in what was read: in it write Анна (4), Boris (1), "Deleted Account" (1)'
    )


def test_telegrams_pages_of_html_say_what_to_export(refused, tmp_path):
    (tmp_path / "messages.html").write_text(
        '<!DOCTYPE html>\n<html>\n <head>\n  <meta charset="utf-8"/>\n<title>Exported Data</title></head>\n'
        ' <body onload="CheckLocation();">\n  <div class="page_wrap">\n <div class="from_name">\nАнна\n</div>',
        encoding="utf-8",
    )
    assert "as machine-readable JSON" in refused("messages.html", "--dialogue")
