"""Function words, which say nothing about the topic of a text, by language.

A word of one language may be a topic in another ("die", "war"), so a list counts only where its language is written:
where several words that no other list has are frequent.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

WRITTEN, FREQUENT = 3, 0.05
"""A language is written in a group of texts if so many words that only its list has are each in this share of them."""

TOPICS = """
amount bill call computer cry describe detail fill find fire interest mill mine move name part serious show side sincere
system thick thin
"""
"""Words of scikit-learn's English list that can be a topic."""

ENGLISH = (
    "aren can couldn did didn do does doesn doing don hadn hasn haven isn just ll re shouldn ve wasn weren won wouldn "
    "im dont whats let lets following given said using used"
)

LISTS = {
    "german": "aber als am an auch auf aus bei bin bis das dass dem den der des die dies diese diesen dieser du durch "
    "ein eine einem einen einer eines er es euch für haben hat ich ihr im in ist kann können mich mir mit nach nicht "
    "oder sein sich sie sind so soll über um und uns von vor war warum was wenn werden wie wird wo wurde zu zum zur",
    "french": "au aux avec ce ces cette comme comment dans de des du elle elles en est et eux il ils je la le les leur "
    "leurs lui ma mais me mes moi mon ne nos notre nous on ou où par pas peut plus pour pourquoi qu que quel quelle "
    "quelles quels qui quoi sa se ses si son sont sur ta te tes ton tu un une vos votre vous être",
    "spanish": "al como cómo con cual cuál cuando de del donde dónde el él ella ellos en entre es esta está este esto "
    "ha hay la las le les lo los más me mi muy no nos o para pero por porque puede que qué quien se ser si sin sobre "
    "son su sus te tu un una unos y ya yo",
    "portuguese": "a ao aos as até com como da das de do dos e é ela ele eles em entre essa esse esta está este eu "
    "foi isso já mais mas me meu minha muito na não nas no nos o os ou para pela pelo por porque qual quando que quem "
    "se sem ser seu sua são também te tem um uma você",
    "italian": "a ai al alla anche che chi ci come con cosa da dal dalla dei del della delle di dove e è era gli ha "
    "ho i il in io l la le lo loro ma mi ne nei nel nella non o per perché più può quale quando quello questa questo "
    "se sei si sono su sua suo tra tu un una uno voi",
    "dutch": "aan als bij dat de deze die dit door een en er haar heb hebben heeft het hij hoe hun ik in is je kan "
    "maar met mijn naar niet nog of om ook onder op over te tot uit van voor waar was wat we welke wie wij wordt "
    "worden zal ze zich zij zijn zou",
    "swedish": "alla att av blir de dem den denna detta det dig din du där efter eller en ett för från ha han har hon "
    "hur i inte jag kan man med men mig min när något och om på sig sin skulle som så till under upp ut vad var vi "
    "vid vilka vilken är",
    "polish": "ale bardzo by być co czy dla do gdzie go i ich ile jak jakie jako jest je jego jej już która które "
    "który lub ma mi mnie może na nad nie o od on ona oraz po pod przez przy się są ta tak te tego tej ten to tym w "
    "we więc z za ze że",
    "russian": "а без бы был была были было быть в вам вас вы где для до его ее если есть еще же за и из или им их к "
    "как какая какие какой когда который которые кто ли мне мой можно мы на над не него нет но о об он она они от по "
    "под при с со так такое также твой то тот ты у уже что чтобы эта эти это этот я",
    "turkish": "ama bir bu çok da daha de değil diye en gibi hangi her için ile ise kadar ki kim mı mi mu mü ne neden "
    "nasıl nedir o olan olarak oldu olur sonra şu var ve veya ya yok",
    "indonesian": "ada adalah agar akan anda antara apa atau bagaimana bagi bahwa bisa dalam dan dapat dari dengan di "
    "harus ini itu jika juga kami karena ke kita lebih mana mereka oleh pada saya sebagai secara sebuah seperti "
    "tersebut tidak untuk yang",
    "vietnamese": "các cái cho có của cũng để đã đang được gì hãy hay khi không là lại làm mà mình một này như nhưng "
    "những ở ra rất sẽ tại thế thì tôi trong từ và vào về vì với",
    "arabic": "إلى أن أو إن ان التي الذي أي بين ثم حتى ذلك على عن عند في قد كان كل كما كيف لا لم ما مع من هذا هذه هل "
    "هو هي و يا",
    "hindi": "आप इस उस एक और का कि की के को कर करें किया क्या कैसे जो तक तो था थी थे ने नहीं पर भी में मैं यह ये वह से है हैं हो",
    "korean": "것 그 그리고 나는 너는 다음 대한 대해 또는 무엇 무엇인가요 및 수 어떤 어떻게 에서 왜 위한 은 는 이 이것 "
    "저 하는 해줘 해주세요 있는 있다",
}
"""Language -> its most frequent function words."""

HAN_CHARACTERS = frozenset("一的了是我你您他她它们們这這那哪也吗嗎呢吧把被个個请請与與很就都在和给給着该該")
"""Chinese characters that are words of their own: a pair with one of them is no word, with few exceptions."""

HAN_PAIRS = """
不是 不能 为什 什么 什麼 以上 以下 以及 例如 但是 使用 关于 關於 可以 可能 哪些 因为 因為 如下 如何 如果 对于 對於
已经 并且 怎样 怎麼 怎么 所以 所有 或者 根据 根據 没有 沒有 然后 由于 进行 進行 需要 通过 不同 之间 有关 其中 下面
能够 两种 多少 包括 提供 给出 以便
"""
"""Pairs of Chinese characters that say nothing about the topic."""


@cache
def stop_words() -> Mapping[str, frozenset[str]]:
    """Return language -> its function words."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    lists = {language: frozenset(words.split()) for language, words in LISTS.items()}
    return {"english": frozenset(ENGLISH_STOP_WORDS).difference(TOPICS.split()) | frozenset(ENGLISH.split()), **lists}


@cache
def all_stop_words() -> frozenset[str]:
    """Return the function words of all languages."""
    return frozenset[str]().union(*stop_words().values())


@cache
def telling() -> Mapping[str, frozenset[str]]:
    """Return language -> the function words that no other language has."""
    lists = stop_words()
    return {
        language: words.difference(*(others for other, others in lists.items() if other != language))
        for language, words in lists.items()
    }


def written(shares: Mapping[str, float]) -> frozenset[str]:
    """Return the function words of the languages that are written in a group of texts.

    Args:
        shares: word -> share of the texts that have it.
    """
    known = [
        language
        for language, words in telling().items()
        if sum(shares.get(word, 0.0) >= FREQUENT for word in words) >= WRITTEN
    ]
    return frozenset[str]().union(*(stop_words()[language] for language in known))
