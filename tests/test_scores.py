"""Scores of texts: against the numbers that the field's packages print, a literal twin, and the laws of every score."""
import doctest
import math
from functools import lru_cache

import pytest
from toy import FAST, toy_model, toy_stream, toy_task

from mbf_utils import rouge, scores
from mbf_utils.errors import InputError
from mbf_utils.evaluation import evaluate, generate
from mbf_utils.metrics import average_accuracy
from mbf_utils.printing import save
from mbf_utils.reports import matrices, order_table, printed, summarise
from mbf_utils.rouge import common, likeness, rouge_l, stem
from mbf_utils.runs import run_stream
from mbf_utils.scores import CHOICES, SCORES, sari, score_of
from mbf_utils.settings import Settings
from mbf_utils.streams import ORDERS, Example, Stream, TaskData

# Printed by rouge_score 0.1.2 with NLTK 3.10.4: RougeScorer(["rougeL"], use_stemmer=True), F-measure
ROUGE = [
    ("The cats were running.", "the cat runs", 0.8571428571428571), ("a b c d e f", "a x c y e z", 0.5),
    ("", "word", 0), ("...", "...", 0),
    ("Müller geht über die Straße", "Muller geht", 0.22222222222222224),
    ("Sci/Tech news: oil-prices rise 3.5%", "oil prices rose by 3.5 % (sci tech)", 0.5),
    ("He lies, she dies; the skies were dying", "lying to die under the sky", 0.5714285714285715),
    ("generalizations of relational operators", "a general relation operates", 0.75),
    ("one two three", "three two one", 0.3333333333333333), ("A", "a", 1.0),
    ("Agreed! happily hopping, controlling falls", "agree happy hop control fall", 0.8)]
# Stems by NLTK's PorterStemmer, a word or more for every rule
STEMS = """
caresses:caress flies:fli dies:die cats:cat caress:caress agreed:agre feed:feed plastered:plaster bled:bled motoring:motor
sing:sing conflated:conflat troubled:troubl sized:size hopping:hop falling:fall hissing:hiss fizzed:fizz failing:fail filing:file
happy:happi sky:sky enjoy:enjoy by:by say:say spied:spi died:die relational:relat conditional:condit rational:ration
valenci:valenc hesitanci:hesit digitizer:digit conformabli:conform radically:radic differentli:differ vileli:vile
analogousli:analog vietnamization:vietnam predication:predic operator:oper feudalism:feudal decisiveness:decis hopefulness:hope
callousness:callous formaliti:formal sensitiviti:sensit sensibiliti:sensibl triplicate:triplic formative:form formalize:formal
electriciti:electr electrical:electr hopeful:hope goodness:good revival:reviv allowance:allow inference:infer airliner:airlin
adjustable:adjust defensible:defens irritant:irrit replacement:replac adjustment:adjust dependent:depend adoption:adopt
communism:commun activate:activ homologous:homolog effective:effect bowdlerize:bowdler probate:probat rate:rate cease:ceas
controll:control roll:roll apology:apolog theology:theolog logi:logi innings:inning proceed:proceed 1980s:1980 yes:ye
employment:employ destroyer:destroy eyed:eye betrayal:betray"""


@pytest.mark.parametrize("one, other, expected", ROUGE)
def test_rouge_is_that_of_googles_package(one, other, expected):
    assert rouge_l(one, other) == pytest.approx(expected, abs=1e-12) == rouge_l(other, one)


def test_words_are_stemmed_as_nltk_does():
    expected = dict(pair.split(":") for pair in STEMS.split())
    assert {word: stem(word) for word in expected} == expected


def test_examples_in_docstrings():
    assert doctest.testmod(rouge).failed == doctest.testmod(scores).failed == 0 < doctest.testmod(rouge).attempted


def test_the_longest_common_subsequence_is_that_of_its_definition():
    def literal(a, b):
        @lru_cache(None)
        def of(i, j):
            return 0 if i == len(a) or j == len(b) else 1 + of(i + 1, j + 1) if a[i] == b[j] else max(of(i + 1, j), of(i, j + 1))
        return of(0, 0)
    texts = ["", "a", "ab", "abcbdab", "bdcaba", "aaaa", "banana bread", "cabbage bananas"]
    for a in texts:
        for b in texts:
            assert common(a, b) == literal(a, b) == common(b, a)
            assert likeness(a, b) == (2 * literal(a, b) / (len(a) + len(b)) if a and b else 0)


def test_sari_is_that_of_the_hubs_documentation():
    references = ("About 95 species are currently known .", "About 95 species are now accepted .", "95 species are now accepted .")
    found = sari("About 95 you now get in .", "About 95 species are currently accepted .", references)
    assert 100 * found == pytest.approx(26.953601953601954)
    assert sari("a b c", "a b d", ("a b c",)) == 1 > sari("a b d", "a b d", ("a b c",)) > sari("x", "a b d", ("a b c",))


@pytest.mark.parametrize("name", SCORES)
def test_the_right_answer_scores_one_and_the_best_reference_counts(name):
    row = Example("Simplify: some long words stand here.\n", ("B\nBecause we say so", "C\nIt is"), (10, 37))
    for reference in row.answers:
        assert SCORES[name](reference, row) == 1 if name != "sari" else 0 < SCORES[name](reference, row) <= 1
    assert 0 <= SCORES[name]("something else entirely", row) < 0.7 and 0 <= SCORES[name]("", row) < 0.7


def test_an_empty_answer_is_never_right():
    """Deleting punctuation leaves nothing of MNLI's label "-"."""
    for reference in ("-", "...", "?!"):
        row = Example("?", (reference,))
        assert SCORES["exact"]("", row) == SCORES["exact"](" ", row) == 0 < SCORES["exact"](f" {reference}\n", row)
    assert SCORES["exact"](" SciTech", Example("?", ("Sci/Tech",))) == 1
    assert all(score("", Example("a b", ("word",))) == 0 for name, score in SCORES.items() if name != "sari")


def test_a_letter_counts_whatever_its_reason_and_literals_of_code_are_written_out():
    row = Example("?", ("B\nBecause water is wet.",))
    assert [SCORES["letter"](text, row) for text in ("B", "Answer: B. Because", "A\nBecause water is wet.", "")] == [1, 1, 0, 0]
    assert SCORES["edit_similarity"]("x = 'abc' + 0", Example("?", ("x = '<STR_LIT:abc>' + <NUM_LIT>",))) == 1


@pytest.mark.parametrize("said, wanted", [("5", "-5"), ("-5", "5"), ("35", "3.5"), ("3.5", "35"), ("1,2", "12"), ("a", "A"), ("1 2", "12"), ("", "-")])
def test_numbers_are_compared_as_they_are_written(said, wanted):
    """Deleting punctuation makes some of these equal, which TRACE's own comparison never does."""
    for task in ("NumGLUE-cm", "numglue-ds"):
        score = SCORES[score_of(task)]
        assert score(said, Example("?", (wanted,))) == 0
        assert score(f" {wanted}\n", Example("?", (wanted,))) == score(wanted, Example("?", ("7", f"{wanted} "))) == 1


@pytest.mark.parametrize("name", SCORES)
def test_no_answer_is_an_empty_one(name):
    for row in (Example("Simplify: a b c d.", ("a b", "c"), (10, 18)), Example("?", ("-",)), Example("?", (" ",))):
        assert SCORES[name](None, row) == SCORES[name]("", row) <= 1


def test_which_score_a_task_has():
    field = {name: score_of(name) for name in ORDERS["superni"]["O1"]}
    assert {name.split("_")[0] for name, score in field.items() if score == "exact"} == {"task363", "task875", "task1687"}
    assert set(field.values()) == {"exact", "rouge_l"} and len(field) == 15
    assert {score_of(name, "SAPT") for name in field} == {"rouge_l"}
    assert {score_of(name, choice) for choice in ("field", "SAPT") for name in [*ORDERS["long"]["4"], "mine"]} == {"exact"}
    assert [score_of(name) for name in ORDERS["trace"]["1"]] == [
        "exact", "exact", "rouge_l", "edit_similarity", "letter", "literal", "literal", "sari"]
    assert all(score_of("yelp", name) == name for name in SCORES) and set(SCORES) < set(CHOICES)
    with pytest.raises(InputError, match="found 'bleu'"):
        Settings(scores="bleu")


@pytest.fixture(scope="module")
def toy_superni():
    """A classification task and one of free text under SuperNI's names; references in two wordings."""
    free = toy_task("task1572_samsum_summary", ("seven eight nine", "six"))
    test = [Example(row.prompt, (*row.answers, "ten " + row.answers[0])) for row in free.test]
    free = TaskData(free.name, free.train, free.dev, test)
    return Stream("superni", "x", (toy_task("task363_sst2_polarity_classification", ("good", "bad"), ("good", "bad")), free))


def test_a_task_is_scored_by_its_own_score_beside_exact_match(toy_superni):
    model, tokenizer = toy_model(3)
    labelled, free = toy_superni
    answers = generate(model, tokenizer, free.test, max_new_tokens=4)
    each = [max(rouge_l(answer, reference) for reference in row.answers) for answer, row in zip(answers, free.test)]
    by_hand = 100 * sum(each) / len(each)
    score = evaluate(model, tokenizer, free, max_new_tokens=4)
    assert score.score == pytest.approx(by_hand) and score.exact <= score.score and math.isnan(score.options)
    exact = evaluate(model, tokenizer, labelled)
    assert exact.score == exact.exact
    both = evaluate(model, tokenizer, labelled, scores="SAPT", max_new_tokens=4)
    assert both[:2] == exact[:2] and both.score >= both.exact


def test_a_run_keeps_exact_match_in_its_matrix_and_the_fields_scores_beside_it(toy_superni, tmp_path):
    runs = [run_stream(toy_superni, method, toy_model(), seed, tmp_path / f"{method}{seed}", **FAST)
            for method in ("seqlora", "slao") for seed in (0, 1)]
    for run in runs:
        assert run.scored and (run.scores >= run.matrix).to_numpy()[[0, 1, 1], [0, 0, 1]].all()
        assert run.scores.iloc[:, 0].equals(run.matrix.iloc[:, 0])               # a classification task
        found = run.metrics()
        assert found["AA_score"] == pytest.approx(run.scores.iloc[-1].mean())
        assert found["AA"] == pytest.approx(run.matrix.iloc[-1].mean())
        assert "scores" not in run.config["settings"]                            # "field", as always
    table, _ = summarise(runs)
    assert "AA_score" in table and "rank_score" in table and "AA score" in printed(table) and len(order_table(runs)) == 0
    assert set(matrices(runs)["reading"]) == {"exact", "labels", "score"}
    save(runs, (), tmp_path, "both")
    assert (tmp_path / "both-score.png").stat().st_size > 5000 and "AA_score" in (tmp_path / "both.csv").read_text()
    exact = run_stream(toy_superni, "slao", toy_model(), 0, tmp_path / "exact", scores="exact", **FAST)
    assert not exact.scored and exact.scores.equals(exact.matrix) and exact.config["settings"]["scores"] == "exact"
    assert exact.matrix.equals(runs[2].matrix) and "AA_score" not in exact.metrics()


def test_a_stream_that_is_all_exact_match_has_no_third_matrix(tmp_path):
    run = run_stream(toy_stream()[:1], "slao", toy_model(), 0, tmp_path / "run", **FAST)
    assert not run.scored and "AA_score" not in run.metrics() and not list(tmp_path.rglob("matrix-score.csv"))


def test_the_mean_is_over_tasks_or_over_rows(tmp_path):
    assert average_accuracy([[60], [90, 30]], rows=[300, 100]) == 75 and average_accuracy([[60], [90, 30]]) == 60
    assert average_accuracy([[60]], rows=[2, 5]) == 60
    for rows in ([1], [0, 1], ["a", "b"]):
        with pytest.raises(InputError):
            average_accuracy([[60], [90, 30]], rows=rows)
    single, free = toy_stream()[0], toy_stream()[2]
    stream = Stream("two", "1", (TaskData(single.name, single.train, single.dev, single.test[:2], single.labels), free))
    run = run_stream(stream, "seqlora", toy_model(), 0, tmp_path / "run", **FAST)
    last = run.matrix.iloc[-1]
    assert run.metrics("micro")["AA"] == pytest.approx((2 * last.iloc[0] + 5 * last.iloc[1]) / 7)
    with pytest.raises(InputError, match="macro or micro"):
        run.metrics("median")
