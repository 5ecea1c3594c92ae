from loradar.cli import main

main()
