from retroclip.classifiers import most_frequent_names


def test_most_frequent_name_of_a_class(task):
    captions = [("a tabby",), ("tabby and horse",), ("a kitty",), ("a cat",)]
    assert most_frequent_names(task, captions) == {"cat": "tabby", "sea horse": "sea horse", "horse": "horse"}
